# Verify messages with Mail::DKIM against keys from a file instead of DNS.
# usage: mail_dkim.pl KEYS MESSAGE...    KEYS has lines: name TAB value
# Prints one word a message: pass, fail, invalid, none, or none if it has no signature.
use strict;
use warnings;
use Mail::DKIM::DNS;
use Mail::DKIM::Verifier;

my %keys;
open(my $list, '<', shift) or die $!;
while (<$list>) {
    chomp;
    my ($name, $value) = split /\t/, $_, 2;
    $keys{lc $name} = $value;
}

package TxtRecord {
    sub new { my ($class, $value) = @_; return bless {value => $value}, $class }
    sub type { return 'TXT' }
    sub char_str_list { return ($_[0]{value}) }
    sub txtdata { return $_[0]{value} }
}

no warnings 'redefine';
*Mail::DKIM::DNS::query = sub {
    my ($name) = @_;
    return exists $keys{lc $name} ? (TxtRecord->new($keys{lc $name})) : ();
};
*Mail::DKIM::DNS::query_async = sub {
    my ($name, $type, %options) = @_;
    my @records = Mail::DKIM::DNS::query($name, $type);
    return sub { return $options{Callbacks}{Success}->(@records) };
};

for my $path (@ARGV) {
    my $verifier = Mail::DKIM::Verifier->new();
    open(my $message, '<:raw', $path) or die $!;
    local $/ = "\015\012";
    $verifier->PRINT($_) while <$message>;
    $verifier->CLOSE;
    my @results = map { $_->result } $verifier->signatures;
    my $all = @results && !grep { $_ ne 'pass' } @results;
    print $all ? 'pass' : ($results[0] // 'none'), "\n";
}
