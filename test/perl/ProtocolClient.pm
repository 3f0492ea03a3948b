# ProtocolClient: a client that sends random messages, and tells from the answers what its session must hold.
#
# Its statements answer with rows that say what they did: what, key, mode and whether it was done. A command is a
# string of a simple query, or a portal; if it fails what it took at session scope is given back. What can't be
# told from the answers is marked as loose, and not compared until nothing is held of it.

package ProtocolClient;

use strict;
use warnings;
use List::Util 'min';
use Protocol;
use Time::HiRes qw(time);

my @common_keys = ('a' .. 'd');
my @loose_keys = ('loose1', 'loose2');

# Waits that are longer are cancelled.
use constant LONGEST_WAIT => 0.05;

sub all_keys
{
	my ($clients) = @_;

	return @common_keys, @loose_keys, 'builtin', map { own_keys($_) } 1 .. $clients;
}

sub own_keys { return map { "own$_[0]$_" } 1 .. 9; }

# `counts`: how often what has happened, by its name; of all clients.
sub new
{
	my ($class, $node, $number, $counts) = @_;

	return bless {
		session => Protocol->new($node, lock_timeout => pick(0, '20ms'), 'pglock.warnings' => pick('on', 'off')),
		number => $number,
		counts => $counts,
		ours => {},         # by key: the modes of the levels taken through pglock at session scope, oldest first
		total => {},        # by key and mode: all levels of session scope
		frames => [ {} ],   # of the transaction and its savepoints: by key and mode, levels of transaction scope
		in_block => 0,
		has_failed => 0,
		loose => {},
		touches => {},      # by key: how often it was taken or given back
		savepoints => [],
		portals => {},      # by name: the command
		expected => [],     # what the server is to answer to
		story => [],
	}, $class;
}

sub pid { return $_[0]{session}->pid; }
sub has_ended { return $_[0]{session}->has_ended; }

# Has the server answered all, or ended the session if it is to?
sub is_done { return $_[0]->has_ended || $_[0]{session}->is_ready && !$_[0]{is_to_end}; }

# Strikes at the session.
sub cancel { return kill INT => $_[0]->pid; }

sub end
{
	my ($self) = @_;

	$self->{is_to_end} = 1;
	return kill TERM => $self->pid;
}

sub is_late { return time > $_[0]{began_at} + LONGEST_WAIT; }

# Can the session run statements?
sub can_ask { return !$_[0]->has_ended && $_[0]{session}->status ne 'E'; }

# The messages of the last rounds, and the answers.
sub story { return join "\n", 'session ' . $_[0]->pid . ':', @{ $_[0]{story} }; }

sub tell
{
	my ($self, $text) = @_;
	my $story = $self->{story};

	push @$story, $text;
	shift @$story if @$story > 60;
	return;
}

#
# What it sends
#

sub pick { return $_[ int rand @_ ]; }

sub key { return pick(@common_keys, own_keys($_[0]{number})); }

# One row for what one call did.
sub row { return "SELECT '$_[0]' AS what, '$_[1]' AS key, '$_[2]' AS mode, $_[3] AS done"; }

sub call
{
	my ($self, $function, $key, $scope, $mode) = @_;
	my $timeout = pick("'0'", "'1ms'", "'5ms'", "'1h'", 'NULL');
	my $shared = $mode eq 'shared' ? 'true' : 'false';

	return $function eq 'try' ? "pglock.try($key, $shared, '$scope')"
	  : $function eq 'raw' ? "pglock.acquire_raw(pglock.lock_id($key), $timeout, $shared, '$scope')"
	  : "pglock.$function($key, $timeout, $shared, '$scope')";
}

# A statement that takes or gives back.
sub change
{
	my ($self) = @_;
	my ($key, $mode) = ($self->key, pick('exclusive', 'shared'));
	my $scope = pick('session', 'session', 'transaction');
	my $shared = $mode eq 'shared' ? 'true' : 'false';
	my $builtin = $mode eq 'shared' ? '_shared' : '';
	my $own = 'own' . $self->{number};

	return pick(
		sub { row("take $scope", $key, $mode, $self->call(pick('acquire', 'try', 'raw'), "'$key'", $scope, $mode)) },
		# some rows, the last of which may fail
		(sub {
			"SELECT 'take $scope' AS what, '$own' || i AS key, '$mode' AS mode, "
			  . $self->call(pick('acquire', 'try'), "'$own' || i", $scope, $mode) . ' AS done, '
			  . pick('1', '1', '1/(' . pick(3 .. 12) . ' - i)') . " FROM generate_series(1, 9) i";
		}) x 3,
		sub {
			my %keys = map { $_ => 1 } $key, pick(@common_keys), $own . 1;

			row("take $scope", join(' ', keys %keys), $mode,
				$self->call('acquire_all', "'{" . join(',', keys %keys, $key) . "}'::text[]", $scope, $mode));
		},
		sub { row('give', $key, $mode, "pglock.release('$key', $shared)") },
		sub { row('give', $key, 'newest', "pglock.release('$key')") },
		sub { row('give all', '', '', 'pglock.release_all() IS NOT NULL') },
		sub { row('builtin take', $key, $mode, "pg_try_advisory_lock$builtin(pglock.lock_id('$key'))") },
		sub { row('builtin give', $key, $mode, "pg_advisory_unlock$builtin(pglock.lock_id('$key'))") },
		sub { row('builtin give all', '', '', "pg_advisory_unlock_all() IS NOT NULL") })->();
}

# A statement of any other kind.
sub other
{
	my ($self) = @_;
	my $key = $self->key;

	return pick(
		"SELECT 'none', pglock.token('$key')",
		"SELECT 'none', count(*) FROM pglock.locks",
		"SELECT 'none', count(*) FROM pglock.session_holds()",
		"SELECT 'none', pglock.held('$key'), pglock.is_free('$key')",
		"SELECT 'none', pg_try_advisory_xact_lock(pglock.lock_id('builtin'))",
		"SELECT 'none', 1/0",
		'CREATE TEMPORARY TABLE IF NOT EXISTS t (i integer) ON COMMIT ' . pick('DROP', 'DELETE ROWS', 'PRESERVE ROWS'),
		'DROP TABLE IF EXISTS t',
		'INSERT INTO deferred VALUES (' . pick(1, 2) . ')',
		"DO \$\$ BEGIN PERFORM pglock.acquire('loose1', '1ms'); BEGIN PERFORM pglock.acquire('loose2', '1ms'); PERFORM 1/0;"
		  . ' EXCEPTION WHEN division_by_zero THEN ' . pick('NULL; ', "PERFORM pglock.acquire('loose1', '1ms'); ") . 'END; END $$',
		"DECLARE held CURSOR WITH HOLD FOR SELECT 'none', pglock.acquire('loose' || i, '1ms') FROM generate_series(1, 2) i",
		'FETCH 1 FROM held',
		'CLOSE ALL',
		("ROLLBACK PREPARED 'of $self->{number}'", "COMMIT PREPARED 'of $self->{number}'"),
		'DISCARD ALL',
		'DISCARD ' . pick('TEMP', 'PLANS'));
}

# What may end a failed transaction.
sub ending
{
	my ($self) = @_;

	return pick('ROLLBACK', 'COMMIT', map { "ROLLBACK TO $_" } @{ $self->{savepoints} });
}

sub control
{
	my ($self) = @_;
	my $savepoint = 's' . int rand 3;

	return pick('BEGIN', 'BEGIN', 'COMMIT', 'ROLLBACK', "SAVEPOINT $savepoint", "SAVEPOINT $savepoint", "ROLLBACK TO $savepoint",
		"ROLLBACK TO $savepoint", "RELEASE $savepoint", "PREPARE TRANSACTION 'of $self->{number}'");
}

sub statement
{
	my ($self) = @_;
	my $key = $self->key;
	my $mode = pick('exclusive', 'shared');

	return pick(
		(sub { $self->change }) x 6,
		(sub { $self->control }) x 3,
		(sub { $self->other }) x 2,
		sub { "CALL pglock.lock('$key', '" . pick('0', '1ms', '5ms') . "', " . ($mode eq 'shared' ? 'true' : 'false') . ") /* $mode */" },
		sub { 'DECLARE ' . pick('c', 'd') . ' CURSOR FOR ' . $self->change =~ s/take transaction/take session/r =~ s/'transaction'\)/'session')/r },
		(sub { 'FETCH ' . pick(1, 2, 3, 'ALL') . ' FROM ' . pick('c', 'd') }) x 2)->();
}

sub expect
{
	my ($self, $kind, %what) = @_;

	push @{ $self->{expected} }, { kind => $kind, %what };
	return;
}

sub begin_round
{
	my ($self) = @_;
	my $session = $self->{session};
	my $is_synced = 1;

	$self->tell('-- a round');
	if ($session->status eq 'E' && rand() < 0.7)
	{
		my $end = $self->ending;

		$session->query($end);
		$self->expect('query', statements => [$end], command => new_command());
	}
	foreach (1 .. 1 + int rand 8)
	{
		my $what = rand;

		if ($what < 0.25)
		{
			my @statements = map { $self->statement } 1 .. pick(1, 1, 2, 3);

			# what is in a transaction of its own must be alone
			@statements = $statements[0] if grep { /^(BEGIN|COMMIT|ROLLBACK|SAVEPOINT|RELEASE|PREPARE)/ } @statements;
			$self->send_sync unless $is_synced;
			$session->query(join '; ', @statements);
			$self->expect('query', statements => [@statements], command => new_command());
			$is_synced = 1;
			next;
		}
		if ($what < 0.75)
		{
			my $portal = pick('', '', 'p', 'q');
			my $sql = $self->statement;

			$session->parse('', $sql)->bind($portal, '');
			$self->expect('parse', sql => $sql);
			$self->expect('bind', portal => $portal, sql => $sql);
			$session->describe_portal($portal) && $self->expect('describe') if rand() < 0.1;
			$self->send_execute($portal) foreach 1 .. pick(0, 1, 1, 1, 2, 2, 3);
		}
		elsif ($what < 0.9)
		{
			$self->send_execute(pick('p', 'q'));
		}
		elsif ($what < 0.95)
		{
			my $portal = pick('', 'p', 'q');

			$session->close_portal($portal);
			$self->expect('close', portal => $portal);
		}
		else
		{
			$session->flush;
		}
		$is_synced = 0;
		$is_synced = $self->send_sync if rand() < 0.4;
	}
	$self->send_sync unless $is_synced;
	$session->send;
	$self->{began_at} = time;
	return;
}

sub send_sync
{
	my ($self) = @_;

	$self->{session}->sync;
	$self->expect('sync');
	return 1;
}

sub send_execute
{
	my ($self, $portal) = @_;
	my $rows = pick(0, 0, 1, 2, 5);

	$self->{session}->execute($portal, $rows);
	$self->expect('execute', portal => $portal, rows => $rows);
	return;
}

#
# What it makes of the answers
#

# `taken`: what it took at session scope and did not lose; `touches`: of the keys, after that.
sub new_command { return { sql => $_[0] // '', taken => [], touches => {}, frame => $_[1] // 0, is_complete => 0 }; }

sub take_answers
{
	my ($self, $wait) = @_;

	return if $self->is_done;
	$self->{session}->wait_for_input($wait);
	$self->take_answer(@$_) foreach $self->{session}->receive;
	return;
}

my %answer_to = (1 => 'parse', 2 => 'bind', 3 => 'close', T => 'describe', n => 'describe');

sub take_answer
{
	my ($self, $type, $body, $values) = @_;
	my $expected = $self->{expected};
	my $now = $expected->[0];

	if ($type eq 'E')
	{
		$self->tell("   error $values->{C} $values->{M}");
		$self->fail($values->{C});
	}
	elsif ($type eq 'Z')
	{
		$self->tell("   ready $body");
		shift @$expected;
		$self->end_transaction if $body eq 'I';
		$self->{in_block} = $body ne 'I';
		$self->{has_failed} = $body eq 'E';
	}
	elsif ($type eq 'D')
	{
		$self->note_row($self->running_command, @$values);
	}
	elsif ($type eq 's')
	{
		$self->{counts}{suspended}++;
		$self->tell("   suspended: portal $now->{portal}");
		# FETCH runs to its end at once, and hands its rows out later
		if ($self->running_command->{sql} =~ /^FETCH/)
		{
			$self->{loose}{$_} = 1 foreach @common_keys, own_keys($self->{number});
		}
		shift @$expected;
	}
	elsif ($type =~ /[CI]/)
	{
		$self->complete($values // '');
	}
	elsif (my $kind = $answer_to{$type})
	{
		return if $kind eq 'describe' && $now->{kind} ne 'describe';
		die "$type came for $now->{kind}\n" . $self->story if $kind ne $now->{kind};
		$self->tell($kind . ($now->{sql} ? " $now->{sql}" : '') . (defined $now->{portal} ? " portal $now->{portal}" : ''))
		  if $kind ne 'parse';
		delete $self->{portals}{ $now->{portal} } if $kind eq 'close';
		$self->{portals}{ $now->{portal} } = new_command($now->{sql}, $#{ $self->{frames} }) if $kind eq 'bind';
		shift @$expected;
	}
	return;
}

# The command whose answer comes now.
sub running_command
{
	my ($self) = @_;
	my $now = $self->{expected}[0];

	return $now->{command} if $now->{kind} eq 'query';
	return $self->{portals}{ $now->{portal} } if $now->{kind} eq 'execute';
	return;
}

# A statement of the command is complete.
sub complete
{
	my ($self, $tag) = @_;
	my $expected = $self->{expected};
	my $now = $expected->[0];
	my $command = $self->running_command;

	if ($now->{kind} eq 'query')
	{
		my $sql = shift @{ $now->{statements} };

		# it had the unnamed portal
		delete $self->{portals}{''};
		$self->tell("query: $sql\n   $tag");
		$self->note_statement($command, $sql, $tag);
		return;
	}
	$self->tell("execute $now->{portal} $now->{rows}: $command->{sql}\n   $tag");
	$self->note_statement($command, $command->{sql}, $tag) unless $command->{is_complete};
	$command->{is_complete} = 1;
	shift @$expected;
	return;
}

# What a row says was done.
sub note_row
{
	my ($self, $command, $what, $key, $mode, $done) = @_;

	$self->tell('   row ' . join ' ', map { $_ // '' } $what, $key, $mode, $done);
	return if $what !~ /take|give/;
	if ($done ne 't')
	{
		$self->{counts}{'not taken'}++ if $what =~ /take/;
		return;
	}

	my ($ours, $total) = @{$self}{qw(ours total)};

	$self->{counts}{ $what =~ /take/ ? 'taken' : 'given back' }++;
	if ($what =~ /^take/)
	{
		$self->note_taken($command, $what, $_, $mode) foreach split / /, $key;
	}
	elsif ($what eq 'builtin take')
	{
		$total->{$key}{$mode}++;
		$self->{touches}{$key}++;
	}
	elsif ($what =~ /^(builtin )?give$/)
	{
		$mode = $ours->{$key}[-1] // ($total->{$key}{exclusive} ? 'exclusive' : 'shared') if $mode eq 'newest';
		# the books take what went round them for that of others, as far as there are any
		$self->drop_newest($key, $mode) if !$1 || levels_of($ours->{$key}, $mode) >= ($total->{$key}{$mode} // 0);
		$total->{$key}{$mode}--;
		$self->{touches}{$key}++;
	}
	else
	{
		foreach my $held (keys %$total)
		{
			$total->{$held}{$_} = $what eq 'give all' ? $total->{$held}{$_} - levels_of($ours->{$held}, $_) : 0
			  foreach keys %{ $total->{$held} };
		}
		$self->{ours} = {};
		$self->{touches}{$_}++ foreach keys %$total;
	}
	return;
}

sub note_taken
{
	my ($self, $command, $what, $key, $mode) = @_;

	if ($what eq 'take transaction')
	{
		my $frames = $self->{frames};

		# a portal's levels are those of where it was bound, which may be outside of this savepoint
		$self->{loose}{$key} = 1 if $command->{frame} != $#$frames && $command->{sql} ne '';
		$frames->[-1]{$key}{$mode}++;
		$self->{touches}{$key}++;
		return;
	}

	my $before = $command->{touches}{$key};

	# others have changed it since
	$command->{is_mixed}{$key} = 1 if defined $before && $before != ($self->{touches}{$key} // 0);
	push @{ $command->{taken} }, [ $key, $mode ];
	$command->{touches}{$key} = ++$self->{touches}{$key};
	push @{ $self->{ours}{$key} }, $mode;
	$self->{total}{$key}{$mode}++;
	return;
}

sub levels_of
{
	my ($levels, $mode) = @_;

	return scalar grep { $_ eq $mode } @{ $levels // [] };
}

sub drop_newest
{
	my ($self, $key, $mode) = @_;
	my $levels = $self->{ours}{$key} // [];

	foreach my $i (reverse 0 .. $#$levels)
	{
		return splice @$levels, $i, 1 if $levels->[$i] eq $mode;
	}
	return;
}

# What a complete statement did, apart from its rows.
sub note_statement
{
	my ($self, $command, $sql, $tag) = @_;
	my $frames = $self->{frames};
	my $was_failed = $self->{has_failed};

	if ($sql =~ /^BEGIN/)
	{
		$self->{in_block} = 1;
	}
	elsif ($sql =~ /^(COMMIT|ROLLBACK|PREPARE TRANSACTION .*)$/)
	{
		$self->end_portals(0, $was_failed);
		$self->end_transaction;
		$self->{in_block} = 0;
	}
	elsif ($sql =~ /^SAVEPOINT (\w+)/)
	{
		push @$frames, {};
		push @{ $self->{savepoints} }, $1;
	}
	elsif ($sql =~ /^(ROLLBACK TO|RELEASE) (\w+)/)
	{
		my ($is_rollback, $name) = ($1 eq 'ROLLBACK TO', $2);
		my $savepoints = $self->{savepoints};

		while (1)
		{
			my $ended = pop @$frames;

			merge($frames->[-1], $ended) if !$is_rollback;
			last if pop @$savepoints eq $name;
		}
		if ($is_rollback)
		{
			$self->end_portals(scalar @$frames, $was_failed);
			push @$frames, {};
			push @$savepoints, $name;
		}
		# those that go on belong to what the savepoint was in
		$_->{frame} = min($_->{frame}, $#$frames) foreach values %{ $self->{portals} };
	}
	elsif ($sql =~ /^CALL pglock.lock\('(\w+)'.*\* (\w+)/)
	{
		$self->{counts}{taken}++;
		$self->note_taken($command, 'take session', $1, $2);
	}
	elsif ($sql eq 'CLOSE ALL')
	{
		my $portals = $self->{portals};

		# those of the protocol, too, but for the one that runs
		delete $portals->{$_} foreach grep { $portals->{$_} != $command } keys %$portals;
	}
	elsif ($sql eq 'DISCARD ALL')
	{
		$self->{total} = {};
		$self->{ours} = {};
		$self->{touches}{$_}++ foreach keys %{ $self->{touches} };
	}
	return;
}

sub merge
{
	my ($into, $frame) = @_;

	foreach my $key (keys %$frame)
	{
		$into->{$key}{$_} += $frame->{$key}{$_} foreach keys %{ $frame->{$key} };
	}
	return;
}

sub end_transaction
{
	my ($self) = @_;

	$self->{frames} = [ {} ];
	$self->{savepoints} = [];
	$self->{portals} = {};
	return;
}

# The server has raised an error: what was to come until Sync is skipped.
sub fail
{
	my ($self, $code) = @_;
	my $expected = $self->{expected};
	my $now = $expected->[0] or return;    # at the end of a session
	my $command = $self->running_command;

	my $sql = $now->{kind} eq 'query' ? "@{$now->{statements}}" : ($command // $now)->{sql} // '';

	$self->tell("   ... for $now->{kind} $sql");
	$self->{counts}{'error at Sync'}++ if $now->{kind} eq 'sync';
	# a commit that fails may have closed them, as a string and a Bind close the portal of their name
	$self->loosen_portals(sub { 1 }) if $now->{kind} eq 'sync' || $sql =~ /^(COMMIT|PREPARE)/;
	$self->loosen_portals(sub { $_ eq ($now->{portal} // '') }) if $now->{kind} =~ /query|bind/;
	# it releases locks before it drops temporary tables, where a cancel may strike
	if ($sql eq 'DISCARD ALL')
	{
		$self->{loose}{$_} = 1 foreach keys %{ $self->{total} };
	}
	# one that was fetched in part does not fail again where its transaction has failed, or is over
	my $is_over = $now->{kind} eq 'execute' && $code =~ /^(25P02|34000)$/;

	$self->undo($command) if defined $command && !$command->{is_complete} && !$is_over;
	delete $self->{portals}{ $now->{portal} } if $now->{kind} eq 'execute' && !$is_over;
	$self->end_portals($self->{in_block} ? $#{ $self->{frames} } : 0, 1) if $now->{kind} ne 'sync' && !$self->{has_failed};
	shift @$expected while @$expected && $expected->[0]{kind} !~ /sync|query/;
	if ($self->{in_block})
	{
		# what a savepoint that has failed held is gone, and all if there is none
		$self->{frames}[-1] = {};
	}
	else
	{
		$self->end_transaction;
	}
	return;
}

# What becomes of those that were fetched in part, and have such names, is not known.
sub loosen_portals
{
	my ($self, $is_one) = @_;
	my $portals = $self->{portals};

	foreach my $portal (map { delete $portals->{$_} } grep { $is_one->() } keys %$portals)
	{
		$self->{loose}{ $_->[0] } = 1 foreach $portal->{is_complete} ? () : @{ $portal->{taken} };
	}
	return;
}

# Those that were bound in that frame or a later one are over; are those that were fetched in part undone?
sub end_portals
{
	my ($self, $frame, $is_failure) = @_;
	my $portals = $self->{portals};

	foreach my $name (grep { $portals->{$_}{frame} >= $frame } sort keys %$portals)
	{
		my $portal = delete $portals->{$name};

		$self->undo($portal) if $is_failure && !$portal->{is_complete};
	}
	return;
}

sub undo
{
	my ($self, $command) = @_;

	foreach (@{ $command->{taken} })
	{
		my ($key, $mode) = @$_;

		$self->{counts}{undone}++;
		if ($command->{is_mixed}{$key} || $command->{touches}{$key} != $self->{touches}{$key})
		{
			$self->{loose}{$key} = 1;
			next;
		}
		$self->drop_newest($key, $mode);
		$self->{total}{$key}{$mode}--;
	}
	$self->{touches}{ $_->[0] }++ foreach @{ $command->{taken} };
	return;
}

#
# What it compares
#

sub of_transaction
{
	my ($self) = @_;
	my %levels;

	merge(\%levels, $_) foreach @{ $self->{frames} };
	return \%levels;
}

# Compares with what pg_locks says is held, by key and mode.
sub compare_locks
{
	my ($self, $held) = @_;
	my ($total, $of_transaction) = ($self->{total}, $self->of_transaction);
	my @faults;

	foreach my $key (keys %{ { %$held, %$total, %$of_transaction } })
	{
		next if $key =~ /^(loose|builtin)/;
		if ($self->{loose}{$key})
		{
			next if $held->{$key};
			# it is known again
			delete $self->{loose}{$key};
			delete $self->{ours}{$key};
			delete $total->{$key};
			delete $_->{$key} foreach @{ $self->{frames} };
			$self->{touches}{$key}++;
			next;
		}
		foreach my $mode ('exclusive', 'shared')
		{
			my $expected = ($total->{$key}{$mode} // 0) + ($of_transaction->{$key}{$mode} // 0);

			push @faults, "$key $mode: held " . ($held->{$key}{$mode} ? 'yes' : 'no') . ", but the client knows of $expected levels"
			  if ($expected > 0) != !!$held->{$key}{$mode};
		}
	}
	return @faults;
}

sub own_books
{
	my ($self) = @_;

	# the question takes the unnamed portal, like every query
	delete $self->{portals}{''};
	return $self->{session}->ask('SELECT lock_id, mode, scope, depth FROM pglock.session_holds() WHERE depth IS NOT NULL ORDER BY 1, 2, 3');
}

# Compares with what own_books() said; `names` of the lock ids.
sub compare_books
{
	my ($self, $books, $names) = @_;
	my $of_transaction = $self->of_transaction;
	my (%expected, %found);

	foreach my $key (keys %{ $self->{ours} })
	{
		foreach my $mode ('exclusive', 'shared')
		{
			$expected{"$key|$mode|session"} = $self->{total}{$key}{$mode} if levels_of($self->{ours}{$key}, $mode) > 0;
		}
	}
	foreach my $key (keys %$of_transaction)
	{
		$expected{"$key|$_|transaction"} = $of_transaction->{$key}{$_} foreach keys %{ $of_transaction->{$key} };
	}
	foreach (split /\n/, $books)
	{
		my ($id, $mode, $scope, $depth) = split /\|/;

		$found{ join '|', $names->{$id} // "id $id", $mode, $scope } = $depth;
	}
	return map { "$_: depth " . ($found{$_} // 'none') . ' in the books, and the client knows of ' . ($expected{$_} // 'none') }
	  grep { ($found{$_} // 0) != ($expected{$_} // 0) }
	  grep { my ($key) = split /\|/; $key !~ /^loose/ && !$self->{loose}{$key} } keys %{ { %found, %expected } };
}

1;
