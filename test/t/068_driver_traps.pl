# What each driver's file warns of happens: the recipes are not more careful than they have to be.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Drivers;
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_driver_server('driver_traps');
my %workers = start_workers(grep { driver($_)->{trap} } driver_names());

foreach my $name (grep { $workers{$_} } driver_names())
{
	is($workers{$name}->ask('trap', "$name trap"), "trapped\t" . driver($name)->{trap}, "$name has its trap");
}
stop_workers(values %workers);
ok($node->poll_query_until('postgres', 'SELECT count(*) = 0 FROM pglock.locks'), 'no lock outlives its session');
stop_and_check_log($node);
done_testing();
