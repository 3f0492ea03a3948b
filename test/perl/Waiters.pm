# Waiters: sessions that wait in a queue of the extension, for a lease or for a slot: where they wait, and whatever
# ends their wait. The one in front sleeps until what it waits for may be free; all others wait behind it for the
# place in front, which is a lock.

package Waiters;

use strict;
use warnings;
use IPC::Run;
use PgLock;
use PostgreSQL::Test::Utils;
use Test::More;

# %queue:
#   name       what is waited for, as errors have it
#   acquire    SQL that waits for it
#   call       the same by a procedure
#   timed      SQL that waits for it for 100 ms: by a function, and by a procedure
#   short      an expression that waits for 1 ms, and is true if that was in vain
#   give_back  SQL that gives it back, and answers `given_back`
#   holds      by the place at which the one in front waits meanwhile: how the holder has what is waited for, and how
#              it ends that
#   locks      by places: the number of a lock's kind, in pg_locks.objsubid; that behind is `gate`
#   waiting    an expression for how many wait, as the views have it
#   left       SQL that counts what is left
sub new
{
	my ($class, $node, %queue) = @_;
	my $self = bless { node => $node, %queue }, $class;

	$self->connect;
	$node->safe_psql('postgres', <<'END_OF_SQL');
CREATE TABLE race (over boolean);

-- Until the race is over, strikes at sessions that run such statements
CREATE PROCEDURE strike_waiters(how regproc, statements text) LANGUAGE plpgsql AS $$
DECLARE
	struck boolean;
BEGIN
	WHILE NOT EXISTS (SELECT FROM race) LOOP
		EXECUTE format('SELECT bool_or(%s(pid)) FROM pg_stat_activity
			WHERE state = ''active'' AND query LIKE $1 AND pid <> pg_backend_pid() AND random() < 0.5', how) INTO struck USING statements;
		COMMIT;
		FOR i IN 1..random() * 2000 LOOP END LOOP;
	END LOOP;
END $$;
END_OF_SQL
	return $self;
}

sub connect
{
	my ($self) = @_;

	$self->{holder} = session($self->{node});
	$self->{observer} = session($self->{node});
	return;
}

# The server was restarted.
sub reconnect
{
	my ($self) = @_;

	$self->end;
	$self->connect;
	return;
}

sub pid_of { return scalar $_[0]->query('SELECT pg_backend_pid()'); }

# More often than poll_query_until() would look.
sub wait_until
{
	my ($self, $condition) = @_;

	$self->{observer}->query_safe(<<"END_OF_SQL");
DO \$\$ BEGIN
	FOR i IN 1..60000 LOOP
		IF ($condition) THEN RETURN; END IF;
		PERFORM pg_stat_clear_snapshot(), pg_sleep(0.001);
	END LOOP;
	RAISE 'not so: %', \$not\$ $condition \$not\$;
END \$\$
END_OF_SQL
	return;
}

# Waits until the session with that pid is at that place.
sub wait_for_place
{
	my ($self, $pid, $place) = @_;
	my %at = (asleep => "EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid AND wait_event_type = 'Extension')");

	foreach my $lock (keys %{ $self->{locks} })
	{
		$at{$lock} = "EXISTS (SELECT FROM pg_locks WHERE pid = $pid AND NOT granted AND objsubid = $self->{locks}{$lock})";
	}
	$self->wait_until($at{$place} // join ' OR ', values %at);
	return;
}

sub nothing_is_left
{
	my ($self, $name) = @_;

	is($self->{observer}->query($self->{left}), '0', $name);
	return;
}

# All of them get what they wait for, each alone, and nothing is left.
sub check_served
{
	my ($self, $name, @waiters) = @_;

	foreach my $waiter (@waiters)
	{
		is(finish_waiting($waiter), '00000', $name);
		is($waiter->query($self->{give_back}), $self->{given_back}, '... alone');
	}
	$self->nothing_is_left('... and nothing is left');
	return;
}

# The sessions wait, one after the other, with the first at that place. `sql`: by their numbers, if not by `acquire`.
# Those in `timed` may have ended their wait.
sub start_in_order
{
	my ($self, $place, $waiters, %params) = @_;

	foreach my $i (0 .. $#$waiters)
	{
		my $pid = pid_of($waiters->[$i]);

		start_waiting($waiters->[$i], $params{sql}{$i} // $self->{acquire});
		$self->wait_for_place($pid, $params{is_timed} ? 'any' : $i ? 'gate' : $place)
		  unless $params{is_timed} && $params{is_timed}{$i};
	}
	return;
}

# So many wait, one after the other, and are served one by one in that order, where one is held by the SQL in `take`,
# and set free by that in `free`.
sub test_order
{
	my ($self, $count, $take, $free) = @_;
	my $node = $self->{node};
	my @clients;

	$node->safe_psql('postgres', 'CREATE TABLE served (at serial, waiter int)');
	$self->{holder}->query_safe($take);
	foreach my $waiter (1 .. $count)
	{
		push @clients,
		  IPC::Run::start([ $node->installed_command('psql'), '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'),
				'-c', $waiter % 2 ? $self->{call} : $self->{acquire}, '-c', "INSERT INTO served (waiter) VALUES ($waiter)",
				'-c', $self->{give_back} ],
			'<', \undef, '>', '/dev/null', '2>', '/dev/null');
		$self->wait_until("$self->{waiting} = $waiter");
	}
	$self->{holder}->query_safe($free);
	is(scalar(grep { !$_->finish } @clients), 0, "$count sessions wait, as the view has it: all are served");
	is( $self->{observer}->query("SELECT string_agg(waiter::text, ' ' ORDER BY at) FROM served"),
		join(' ', 1 .. $count),
		'... in the order in which they came');
	return;
}

# How the wait of a session is ended: what is set before, what is done to that session with that pid, and the SQLSTATE
# that comes of it; none: the session is gone.
sub ends
{
	my ($self) = @_;

	return (
		terminate => { do => sub { $self->{observer}->query("SELECT pg_terminate_backend($_[1])") } },
		cancel => { do => sub { $self->{observer}->query("SELECT pg_cancel_backend($_[1])") }, state => '57014' },
		statement_timeout => { before => "SET statement_timeout = '100ms'", state => '57014' },
		lock_timeout => { before => "SET lock_timeout = '100ms'", state => '55P03' },
		timeout => { call => $self->{timed}[0], state => '00000' },
		'timeout of CALL' => { call => $self->{timed}[1], state => '55P03', has_no_context => 1 },
		'loss of the client' => {
			before => "SET client_connection_check_interval = '10ms'",
			do => sub { $_[0]->{run}->signal('KILL') }
		});
}

# The wait of the victim is ended, which is that in front or the one behind; the others go on.
sub test_end
{
	my ($self, $kind, $place, $victim) = @_;
	my $end = { $self->ends }->{$kind};
	my $name = "$kind, " . ($victim ? 'behind' : 'in front') . ", in front is at: $place";
	my @waiters = map { session($self->{node}) } 0 .. 2;
	my $pid = pid_of($waiters[$victim]);

	$self->{holder}->query_safe($self->{holds}{$place}[0]);
	$waiters[$victim]->query_safe($end->{before}) if $end->{before};
	$self->start_in_order(
		$place, \@waiters,
		sql => { $victim => $end->{call} },
		is_timed => $end->{do} ? undef : { $victim => 1 });
	$end->{do}->($waiters[$victim], $pid) if $end->{do};
	if ($end->{state})
	{
		is(finish_waiting($waiters[$victim]), $end->{state}, "$name: the wait ends");
		like($waiters[$victim]->{stderr}, qr/while acquiring $self->{name}/, '... and its context says what was waited for')
		  unless $end->{state} eq '00000' || $end->{has_no_context};
	}
	else
	{
		wait_for_session_end($self->{node}, $pid);
		pass("$name: the session ends");
	}
	$self->{holder}->query_safe($self->{holds}{$place}[1]);
	$self->check_served('... and the next is served', map { $waiters[$_] } grep { $_ != $victim } 0 .. 2);
	end_session(@waiters);
	return;
}

# All of them, at all places
sub test_ends
{
	my ($self) = @_;
	my %ends = $self->ends;

	foreach my $kind (sort keys %ends)
	{
		foreach my $place (sort keys %{ $self->{holds} })
		{
			$self->test_end($kind, $place, $_) foreach 0 .. 1;
		}
	}
	return;
}

# A client that is lost, and whose session does not look, is not given what it waited for.
sub test_lost_client
{
	my ($self) = @_;
	my @waiters = map { session($self->{node}) } 0 .. 1;
	my $pid = pid_of($waiters[0]);

	$self->{holder}->query_safe($self->{holds}{asleep}[0]);
	$self->start_in_order('asleep', \@waiters);
	$waiters[0]->{run}->signal('KILL');
	$waiters[0]->{run}->finish;
	$self->{holder}->query_safe($self->{holds}{asleep}[1]);
	wait_for_session_end($self->{node}, $pid);
	$self->check_served('a client is lost in front: the next is served', $waiters[1]);
	end_session(@waiters);
	return;
}

# Our own timeout is no error: the transaction goes on, with the settings that it had.
sub test_own_timeout
{
	my ($self) = @_;
	my $waiter = session($self->{node});

	foreach my $place (sort keys %{ $self->{holds} })
	{
		$self->{holder}->query_safe($self->{holds}{$place}[0]);
		is($waiter->query(<<"END_OF_SQL"), "t\nt\n1h\n2h\n1", "our own timeout at $place: the transaction goes on, and its settings are as they were");
CREATE TEMP TABLE work (i int);
BEGIN;
SET LOCAL lock_timeout = '1h';
SET LOCAL statement_timeout = '2h';
INSERT INTO work VALUES (1);
SELECT $self->{short};
SELECT $self->{short};
SHOW lock_timeout;
SHOW statement_timeout;
COMMIT;
SELECT count(*) FROM work;
DROP TABLE work;
END_OF_SQL
		$self->{holder}->query_safe($self->{holds}{$place}[1]);
	}
	$self->nothing_is_left('... and nothing is left');
	end_session($waiter);
	return;
}

# As run_psqls(), while that function, as pg_cancel_backend, strikes at those of them that run statements like `at`.
sub run_struck_clients
{
	my ($self, $script, $clients, %params) = @_;
	my ($node, $striker) = ($self->{node});

	$node->safe_psql('postgres', 'TRUNCATE race');
	$striker = IPC::Run::start(
		[ $node->installed_command('psql'), '-XAtq', '-d', $node->connstr('postgres'), '-c', "CALL strike_waiters('$params{strike}', '$params{at}')" ],
		'<', \undef)
	  if $params{strike};

	my @outputs = run_psqls($node, $script, $clients, %params);

	$node->safe_psql('postgres', 'INSERT INTO race VALUES (true)');
	$striker->finish if $striker;
	return @outputs;
}

# To be called at the end.
sub end
{
	my ($self) = @_;

	end_session($self->{holder}, $self->{observer});
	return;
}

1;
