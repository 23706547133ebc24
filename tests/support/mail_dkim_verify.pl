# mail_dkim_verify.pl: judge DKIM signatures with Mail::DKIM and keys that are given, without DNS.
#
# stdin: one line of JSON, {"records": {NAME: TXT, ...}, "messages": [MESSAGE, ...]}; TXT and MESSAGE
# are base64.  stdout: one line of JSON, a list for each message, with one object
# {"sdid", "selector", "algorithm", "result", "detail"} for each signature, top to bottom.
#
# Promises: no packet leaves the machine; what makes Mail::DKIM die on one message is reported for
# that message only.
#
# Debian: libmail-dkim-perl (Net::DNS comes with it).  Release 1.20230212 of Debian 12 knows
# rsa-sha1 and rsa-sha256 only; a later one needs libcryptx-perl for Ed25519.
use strict;
use warnings;
use JSON::PP;
use MIME::Base64 qw(decode_base64);
use Mail::DKIM::DNS;
use Mail::DKIM::Verifier;
use Net::DNS;

package LocalResolver {
    sub new { my ($class, $records) = @_; return bless {records => $records}, $class }
    sub errorstring { return 'NOERROR' }

    sub send {
        my ($self, $name, $type) = @_;
        my $reply = Net::DNS::Packet->new($name, $type);
        $reply->header->qr(1);
        my $value = $self->{records}{lc $name};
        if (!defined $value) {
            $reply->header->rcode('NXDOMAIN');
            return $reply;
        }
        # The wire has strings of at most 255 octets; the verifier must join them without a space.
        my @strings = unpack '(a255)*', $value;
        $reply->push(answer => Net::DNS::RR->new(name => $name, type => 'TXT', txtdata => \@strings));
        return $reply;
    }
}

sub judge {
    my ($message) = @_;
    my $verifier = Mail::DKIM::Verifier->new;
    $verifier->PRINT($message);
    $verifier->CLOSE;
    return [map { describe($_) } $verifier->signatures];
}

sub describe {
    my ($signature) = @_;
    return {
        sdid      => $signature->domain    // '',
        selector  => $signature->selector  // '',
        algorithm => $signature->algorithm // '',
        result    => $signature->result    // 'none',
        detail    => $signature->result_detail // '',
    };
}

my $case = decode_json(do { local $/; <STDIN> });
my %records = map { lc($_) => decode_base64($case->{records}{$_}) } keys %{$case->{records}};
Mail::DKIM::DNS::resolver(LocalResolver->new(\%records));

my @answers;
for my $encoded (@{$case->{messages}}) {
    my $message = decode_base64($encoded);
    my $judged = eval { judge($message) };
    push @answers, $judged // {died => "$@"};
}
print JSON::PP->new->ascii->encode(\@answers), "\n";
