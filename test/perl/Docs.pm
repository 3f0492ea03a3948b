# Docs: the documentation as the tests read it: README.md, docs/*.md and other documents, with their sections
# and examples.

package Docs;

use strict;
use warnings;
use Exporter 'import';
use File::Basename 'dirname';
use PostgreSQL::Test::Utils;

our @EXPORT = qw(documents document section examples);

my $root = dirname(__FILE__) . '/../..';

# The names of all documents, the README first, from the folder with the sources. CHANGELOG.md is none.
sub documents
{
	return ('README.md', 'CONTRIBUTING.md', 'SECURITY.md', map { s,^\Q$root\E/,,r } sort glob "$root/docs/*.md");
}

sub document
{
	my ($name) = @_;

	return slurp_file("$root/$name");
}

# The text below a heading, as far as the next one that is not below it.
sub section
{
	my ($document, $title) = @_;
	my ($marks, $text) = document($document) =~ /^(#+) \Q$title\E$(.*)/ms
	  or die "$document has no section \"$title\"";
	my @parts = split /(^```.*?^```$)/ms, $text;
	my $section = '';

	# a comment in an example is no heading
	foreach my $part (@parts)
	{
		return $section . $1 if $part !~ /^```/ && $part =~ /(.*?)^#{1,${\ length $marks}} /ms;
		$section .= $part;
	}
	return $section;
}

# The examples in a text that are marked with one of these languages.
sub examples
{
	my ($text, @languages) = @_;
	my $language = join '|', map { quotemeta } @languages;

	return $text =~ /^```(?:$language)\n(.*?)^```$/msg;
}

1;
