# Protocol: a session that speaks PostgreSQL's protocol itself. It sends what psql and libpq do not: portals
# that are fetched in portions, pipelines of any messages; and one program can have many such sessions.
#
# Messages are gathered by the methods named after them, and sent by send(). What the server answers is
# taken in by receive(), which does not wait, or by finish(), which waits for the end of all that was sent.

package Protocol;

use strict;
use warnings;
use Errno qw(EAGAIN EINTR EWOULDBLOCK);
use IO::Select;
use IO::Socket::UNIX;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(time);

use constant PROTOCOL_3 => 196608;

# A new session in the database postgres. `settings`: of the server, for this session.
sub new
{
	my ($class, $node, %settings) = @_;
	my $socket = IO::Socket::UNIX->new(Peer => $node->host . '/.s.PGSQL.' . $node->port)
	  or die "could not connect: $!";
	my $options = join ' ', map { "-c $_=" . $settings{$_} =~ s/([\\ ])/\\$1/gr } sort keys %settings;
	my $parameters = pack('(Z*)*', user => scalar getpwuid($>), database => 'postgres', options => $options, '');
	my $self = bless {
		socket => $socket,
		unsent => pack('NN', 8 + length $parameters, PROTOCOL_3) . $parameters,
		received => '',
		expected => 1,    # times that the server will be ready
		ended => 0,
	}, $class;

	$socket->blocking(0);
	foreach my $message ($self->finish)
	{
		my ($type, $body) = @$message;

		die 'could not connect: ' . $message->[2]{M} if $type eq 'E';
		($self->{pid}) = unpack 'N', $body if $type eq 'K';
	}
	die 'the server has closed the connection' if $self->{ended};
	return $self;
}

sub pid { return $_[0]{pid}; }

# Has the server closed the connection?
sub has_ended { return $_[0]{ended}; }

# Has the server said that it is ready as often as it was asked to?
sub is_ready { return $_[0]{expected} <= 0; }

# What the server said when it was last ready: I, idle; T, in a transaction; E, in a failed one.
sub status { return $_[0]{status}; }

sub _add
{
	my ($self, $type, $body) = @_;

	$self->{unsent} .= $type . pack('N', 4 + length $body) . $body;
	$self->{expected}++ if $type =~ /[FQS]/;
	return $self;
}

sub query { return $_[0]->_add('Q', "$_[1]\0"); }
sub parse { return $_[0]->_add('P', "$_[1]\0$_[2]\0\0\0"); }
# to a portal, with values as text
sub bind
{
	my ($self, $portal, $statement, @values) = @_;

	return $self->_add('B', "$portal\0$statement\0" . pack('nn', 0, scalar @values) . pack('(N/a)*', @values) . pack('n', 0));
}
sub execute { return $_[0]->_add('E', "$_[1]\0" . pack('N', $_[2] // 0)); }
sub describe_portal { return $_[0]->_add('D', "P$_[1]\0"); }
# calls the function of that oid with values as text
sub call
{
	my ($self, $oid, @values) = @_;

	return $self->_add('F', pack('Nnn', $oid, 0, scalar @values) . pack('(N/a)*', @values) . pack('n', 0));
}
sub close_wrongly { return $_[0]->_add('C', "?\0"); }
sub close_portal { return $_[0]->_add('C', "P$_[1]\0"); }
sub flush { return $_[0]->_add('H', ''); }
sub sync { return $_[0]->_add('S', ''); }
sub terminate { return $_[0]->_add('X', ''); }

# The client is gone, as if it had been killed.
sub vanish { return close $_[0]{socket}; }

sub wait_for_input
{
	my ($self, $seconds) = @_;

	return IO::Select->new($self->{socket})->can_read($seconds);
}

sub send
{
	my ($self) = @_;

	local $SIG{PIPE} = 'IGNORE';
	while ($self->{unsent} ne '' && !$self->{ended})
	{
		my $sent = syswrite $self->{socket}, $self->{unsent};

		if (defined $sent)
		{
			substr($self->{unsent}, 0, $sent) = '';
		}
		elsif ($!{EAGAIN} || $!{EWOULDBLOCK} || $!{EINTR})
		{
			IO::Select->new($self->{socket})->can_write(1);
		}
		else
		{
			# what the server has said last is still to be read
			last;
		}
	}
	$self->{unsent} = '';
	return $self;
}

sub _next_message
{
	my ($self) = @_;
	my $buffer = \$self->{received};

	return if length $$buffer < 5;

	my ($type, $length) = unpack 'aN', $$buffer;

	return if length $$buffer < 1 + $length;

	my $body = substr $$buffer, 5, $length - 4;

	substr($$buffer, 0, 1 + $length) = '';
	return [ $type, $body, _values($type, $body) ];
}

# What is in a message, for those kinds that the tests look into.
sub _values
{
	my ($type, $body) = @_;

	# an error or a notice: its fields by their letters
	return { map { /^(.)(.*)/s } split /\0/, $body } if $type =~ /[EN]/;
	if ($type eq 'D')
	{
		my ($count, @values) = unpack 'n', $body;
		my $position = 2;

		foreach (1 .. $count)
		{
			my $length = unpack 'l>', substr($body, $position, 4);

			push @values, $length < 0 ? undef : substr($body, $position + 4, $length);
			$position += 4 + ($length < 0 ? 0 : $length);
		}
		return \@values;
	}
	return $body =~ s/\0$//r if $type eq 'C';
	return;
}

# The messages that have come, each as its type, its body, and what is in it.
sub receive
{
	my ($self) = @_;
	my @messages;

	until ($self->{ended})
	{
		my $read = sysread $self->{socket}, $self->{received}, 65536, length $self->{received};

		next if !defined $read && $!{EINTR};
		last if !defined $read && ($!{EAGAIN} || $!{EWOULDBLOCK});
		$self->{ended} = 1 if !$read;
	}
	while (my $message = $self->_next_message)
	{
		if ($message->[0] eq 'Z')
		{
			$self->{expected}--;
			$self->{status} = $message->[1];
		}
		push @messages, $message;
	}
	return @messages;
}

# Sends what was gathered, and waits until the server is ready, or has closed the connection.
sub finish
{
	my ($self) = @_;
	my $until = time + $PostgreSQL::Test::Utils::timeout_default;
	my @messages;

	$self->send;
	until ($self->is_ready || $self->{ended})
	{
		die 'no answer from session ' . ($self->{pid} // '?') if time > $until;
		$self->wait_for_input(1);
		push @messages, $self->receive;
	}
	return @messages;
}

# What a simple query answers: its values, or the SQLSTATE of its error, or nothing if the session has ended.
sub ask
{
	my ($self, $sql) = @_;
	my @messages = $self->query($sql)->finish;
	my ($error) = map { $_->[2]{C} } grep { $_->[0] eq 'E' } @messages;

	return $error // join "\n", map { join '|', map { $_ // '' } @{ $_->[2] } } grep { $_->[0] eq 'D' } @messages;
}

1;
