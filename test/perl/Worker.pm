# Worker: a program with one connection, which does with its driver what a test tells it to. The programs are in
# test/drivers, one for each driver.
#
# A command is a line of words with tabs between them, and so is its answer:
#
#   lock KEY TYPE TIMEOUT MODE SCOPE  begins a block that holds the lock, by the driver's recipe: "held", and
#                                     "released" after its end. TYPE is text, integer or uuid, TIMEOUT in
#                                     milliseconds, MODE shared or nothing
#   slot KEY SLOTS TIMEOUT            begins a block that holds a slot, by the driver's recipe: "held" and its number,
#                                     and "released" after its end
#   example                           runs the example that the driver's file gives: "done"
#   slot_example SCOPE                runs its example of a slot at this scope: "done"
#   transaction                       begins a block that is a transaction: "begun", and "committed" after its end
#   begin                             begins a transaction that nobody will end: "begun"
#   run SQL                           "row" and the value
#   interrupt HOW ROUNDS MICROSECONDS MANNER
#                                     takes the lock `raced` by the recipe, or by its statement alone if MANNER is
#                                     bare, or the only slot `raced` if it is slot, and is interrupted within that
#                                     time: "interrupted", how many times it was, how many locks were left, and how
#                                     many connections were closed. If MANNER is stopped it stops its session first,
#                                     which the test has to let go on, and is interrupted after that time
#   give_up KEY                       takes the lock by the recipe, and gives up when the signal USR2 comes, or by a
#                                     timeout of the driver's: "gave up", and the session that it was left with, if
#                                     it has another one now
#   trap KEY                          does what the driver's file warns of: "trapped", and what came of it
#   end                               leaves the innermost block
#   fail                              raises an exception in the innermost block, which leaves all: "failed"
#
# One that takes leases knows these instead:
#
#   lease KEY TTL TIMEOUT             begins a block that holds the lease, by the driver's recipe, times in milliseconds:
#                                     "held" and the token, and "released" after its end
#   lose                              waits in that block until the recipe says that the lease may not be held any more,
#                                     and leaves it: "lost"
#   write KEY TOKEN                   in a transaction, checks the lease and writes the key into the table `written`:
#                                     "written"
#   example                           runs the example: "done"
#   end                               leaves the innermost block
#
# What fails is answered by "error" and the SQLSTATE, and its block goes on. A new worker says "ready" and the
# version of its driver; it ends when its input does.

package Worker;

use strict;
use warnings;
use IPC::Open3;
use Time::HiRes qw(time usleep);

# how long a worker may be silent
use constant PATIENCE => 60;

# Starts the worker; what it complains of goes to the file `log`.
sub start
{
	my ($class, $name, $log, @command) = @_;
	my $self = bless { name => $name, log => $log, buffer => '' }, $class;

	open my $errors, '>', $log or die "$log: $!";
	$self->{pid} = open3($self->{to}, $self->{from}, '>&' . fileno $errors, @command);
	$self->{to}->autoflush;
	close $errors;
	return $self;
}

sub name
{
	my ($self) = @_;

	return $self->{name};
}

sub send_command
{
	my ($self, @words) = @_;
	local $SIG{PIPE} = 'IGNORE';

	print { $self->{to} } join("\t", @words) . "\n" or $self->give_up('is gone');
	return;
}

# The next answer.
sub answer
{
	my ($self) = @_;
	my $deadline = time + PATIENCE;

	until ($self->{buffer} =~ /\n/)
	{
		my $readable = '';

		vec($readable, fileno $self->{from}, 1) = 1;
		select($readable, undef, undef, $deadline - time) > 0 or $self->give_up('does not answer');
		sysread($self->{from}, $self->{buffer}, 4096, length $self->{buffer}) or $self->give_up('has ended');
	}
	$self->{buffer} =~ s/^(.*)\n//;
	return $1 =~ s/\t\z//r;
}

# Has it give up what it waits for.
sub interrupt
{
	my ($self) = @_;

	kill 'USR2', $self->{pid};
	return;
}

# Stops all of its threads, as a machine that is suspended does, and lets them go on.
sub pause
{
	my ($self) = @_;

	kill 'STOP', $self->{pid};
	return;
}

sub go_on
{
	my ($self) = @_;

	kill 'CONT', $self->{pid};
	return;
}

sub give_up
{
	my ($self, $why) = @_;

	open my $log, '<', $self->{log} or die "$self->{log}: $!";
	die "$self->{name} $why:\n", <$log>;
}

sub ask
{
	my ($self, @words) = @_;

	$self->send_command(@words);
	return $self->answer;
}

# What the statement answers: its one value, or "error" and the SQLSTATE.
sub run
{
	my ($self, $sql) = @_;

	return $self->ask('run', $sql =~ s/\s+/ /gr) =~ s/^row\t?//r;
}

# Begins to take a lock. `options`: type, timeout, mode, scope.
sub start_taking
{
	my ($self, $key, %options) = @_;

	$self->send_command('lock', $key, $options{type} // 'text', $options{timeout} // '', $options{mode} // '',
		$options{scope} // 'session');
	return;
}

sub take
{
	my ($self, @request) = @_;

	$self->start_taking(@request);
	return $self->answer;
}

# Leaves the innermost block.
sub leave
{
	my ($self) = @_;

	return $self->ask('end');
}

# Waits until it is ready.
sub is_ready
{
	my ($self) = @_;
	my ($ready, $version) = split /\t/, $self->answer;

	$self->{version} = $version;
	$self->look_up_session;
	return $ready eq 'ready';
}

# The version of its driver
sub version
{
	my ($self) = @_;

	return $self->{version};
}

# The process id of its session
sub session
{
	my ($self) = @_;

	return $self->{session};
}

# Asks for the process id of its session, which it may have changed.
sub look_up_session
{
	my ($self) = @_;

	$self->{session} = $self->run('SELECT pg_backend_pid()::text');
	return $self->{session};
}

# Waits until it waits for a lock, which `observer`, another worker, sees.
sub wait_until_waiting
{
	my ($self, $observer) = @_;
	my $deadline = time + PATIENCE;
	my $session = $self->session;

	until ($observer->run("SELECT count(*)::text FROM pg_locks WHERE NOT granted AND pid = $session"))
	{
		die "$self->{name} does not wait\n" if time > $deadline;
		usleep(1000);
	}
	return;
}

sub stop
{
	my ($self) = @_;

	close $self->{to};
	waitpid $self->{pid}, 0;
	return;
}

1;
