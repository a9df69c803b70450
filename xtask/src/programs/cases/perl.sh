# Perl: its language, and what it asks of Linux: children, pipes, signals, sockets, threads, files.

p="$limited perl -w"
cat >language.pl <<'END'
use strict; use utf8;
binmode STDOUT, ':utf8';
my @made = map { my $n = $_; sub { $n += shift } } 1 .. 3;
print join(' ', map { $_->(10) + $_->(100) } @made), "\n";
my $nested = qr/\((?:[^()]++|(??{ $main::nested }))*\)/; our $nested_; $main::nested = $nested;
print "2026-11-27" =~ /(?<year>\d+)-(?<month>\d+)/ ? "$+{month}/$+{year}" : '-', ' ', 'f(a(b)c)' =~ $nested ? $& : '-', "\n";
my %count; $count{length $_}++ for qw(one two three four five six seven);
print join(',', map { "$_:$count{$_}" } sort { $a <=> $b } keys %count), "\n";
print eval { die { code => 7 } } // "died $@->{code}", ' ', eval('1 +') // 'syntax', "\n";
{ package Stack; sub new { bless [], shift } sub push { my $self = shift; push @$self, @_; $self }
  use overload '+' => sub { my $sum = 0; $sum += $_ for @{$_[0]}; $sum + $_[1] }; sub DESTROY { print "gone\n" } }
{ my $stack = Stack->new->push(1 .. 10); print $stack + 0, "\n" }
print scalar reverse("añb"), ' ', uc 'straße', ' ', unpack('H*', pack 'NvA3', 1, 2, 'xyz'), "\n";
sub context { wantarray ? 'list' : 'scalar' } my @list = context(); my $one = context(); print "@list $one\n";
local $_ = 'to and fro'; print tr/a-z//, ' ', join('|', split), ' ', s/(\w+)/\u$1/gr, "\n";
printf "%s %.3e %05d %s\n", 10 / 4, 12345.678, 42, 1e20;
use bigint; print 2 ** 100, "\n";
END
same language '122 124 126
11/2026 (a(b)c)
3:3,4:2,5:2
died 7 syntax
55
gone
bña STRASSE 00000001020078797a
list scalar
8 to|and|fro To And Fro
2.5 1.235e+04 00042 1e+20
1267650600228229401496703205376' $p language.pl

cat >children.pl <<'END'
use strict; $| = 1;
my %status;
for my $number (1 .. 5) { my $pid = fork // die; exit $number * 3 if !$pid; $status{$pid} = $number * 3 }
while ((my $pid = wait) > 0) { $? >> 8 == delete $status{$pid} or die "status $?" }
print %status ? 'left' : 'all', "\n";
print system('sh', '-c', 'exit 5') >> 8, ' ', system('kill -TERM $$') & 127, ' ', scalar(`echo out; exit 2`), $? >> 8, "\n";
open my $in, '-|', qw(seq 1 1000) or die; my $sum = 0; $sum += $_ while <$in>; close $in; print "$sum\n";
open my $out, '|-', 'sort -rn | head -n 1' or die; print $out "$_\n" for 1 .. 100; close $out; print "closed $?\n";
use IPC::Open3; my $pid = open3(my $to, my $from, undef, 'tr', 'a-z', 'A-Z'); print $to "hello\n"; close $to; print <$from>; waitpid $pid, 0;
pipe my $read, my $write; if (!fork) { close $read; print $write 'x' x 300_000; exit } close $write; local $/; print length <$read>, "\n"; wait;
exec 'sh', '-c', 'echo executed';
END
same 'children and pipes' 'all
5 15 out
2
500500
100
closed 0
HELLO
300000
executed' $p children.pl

cat >signals.pl <<'END'
use strict; use POSIX qw(:signal_h :sys_wait_h); use Time::HiRes qw(setitimer ITIMER_REAL sleep);
my %seen; $SIG{$_} = sub { $seen{$_[0]}++ } for qw(USR1 USR2 ALRM CHLD);
kill USR1 => $$ for 1 .. 3; kill USR2 => $$;
print join(' ', map { "$_:$seen{$_}" } sort keys %seen), "\n";
eval { local $SIG{ALRM} = sub { die "late\n" }; alarm 1; 1 while 1 }; print $@;
setitimer ITIMER_REAL, 0.02, 0.02; my $n = 0; $n++ while ($seen{ALRM} // 0) < 5; setitimer ITIMER_REAL, 0; print "ticked\n";
my $set = POSIX::SigSet->new(SIGUSR1); sigprocmask SIG_BLOCK, $set; kill USR1 => $$; my $before = $seen{USR1};
my $pending = POSIX::SigSet->new; sigpending $pending; print $pending->ismember(SIGUSR1), ' ', $before, ' '; sigprocmask SIG_UNBLOCK, $set; print "$seen{USR1}\n";
my $pid = fork // die; if (!$pid) { $SIG{TERM} = sub { exit 9 }; sleep 0.05 while 1 } sleep 0.5; kill TERM => $pid; waitpid $pid, 0; print $? >> 8, "\n";
$pid = fork // die; if (!$pid) { kill KILL => $$; sleep 60 } waitpid $pid, 0; print $? & 127, ' ', $seen{CHLD} ? 'told' : '', "\n";
eval { local $SIG{__DIE__}; local $SIG{FPE} = sub { die 'fpe' }; my $zero = 0; my $never = 1 / $zero }; print $@ =~ /division by zero/ ? "division\n" : $@;
END
same signals 'USR1:3 USR2:1
late
ticked
1 3 4
9
9 told
division' $p signals.pl

cat >sockets.pl <<'END'
use strict; use IO::Socket::INET; use IO::Socket::UNIX; use IO::Select; use Socket;
my $server = IO::Socket::INET->new(Listen => 10, LocalAddr => '127.0.0.1', ReuseAddr => 1) or die $!;
for my $number (1 .. 8) {
    next if fork;
    my $client = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $server->sockport) or die $!;
    print $client "client $number\n"; my $answer = <$client>; exit($answer eq "CLIENT $number\n" ? 0 : 1);
}
my $select = IO::Select->new($server); my $served = 0;
while ($served < 8) {
    for my $ready ($select->can_read(20)) {
        if ($ready == $server) { $select->add(scalar $server->accept); next }
        my $line = <$ready>; print $ready uc $line; $select->remove($ready); close $ready; $served++;
    }
}
my $bad = 0; while (wait > 0) { $bad++ if $? } print "$served $bad\n";
my ($one, $two) = IO::Socket::UNIX->socketpair(AF_UNIX, SOCK_STREAM, PF_UNSPEC);
if (!fork) { print $two 'over'; exit } close $two; wait; { local $/; print <$one>, "\n" }
my $local = IO::Socket::UNIX->new(Local => '/tmp/perl.sock', Listen => 1) or die $!;
if (!fork) { my $there = IO::Socket::UNIX->new('/tmp/perl.sock') or die $!; print $there "by name\n"; exit } print scalar readline $local->accept; wait;
my $receiver = IO::Socket::INET->new(Proto => 'udp', LocalAddr => '127.0.0.1') or die $!;
my $sender = IO::Socket::INET->new(Proto => 'udp', PeerAddr => '127.0.0.1', PeerPort => $receiver->sockport) or die $!;
$sender->send('datagram'); $receiver->recv(my $got, 100); print "$got\n";
END
same sockets '8 0
over
by name
datagram' $p sockets.pl

cat >files.pl <<'END'
use strict; use Fcntl qw(:flock :seek); use File::Temp 'tempdir'; use File::Find; use SDBM_File; use Storable qw(nstore retrieve); use Digest::SHA 'sha1_hex';
my $dir = tempdir(CLEANUP => 1); mkdir "$dir/$_" for qw(a b); for my $n (1 .. 50) { open my $f, '>', "$dir/a/$n"; print $f $n x $n }
my ($count, $size) = (0, 0); find sub { if (-f) { $count++; $size += -s _ } }, $dir; print "$count $size\n";
rename "$dir/a/1", "$dir/b/1" and symlink '../a/2', "$dir/b/2" or die $!; opendir my $d, "$dir/b"; print join(' ', sort grep { !/^\./ } readdir $d), ' ', readlink "$dir/b/2", "\n";
tie my %db, 'SDBM_File', "$dir/db", O_RDWR | O_CREAT, 0600 or die $!; $db{$_} = $_ * 2 for 1 .. 1000; untie %db; tie %db, 'SDBM_File', "$dir/db", O_RDWR, 0600; print scalar(keys %db), " $db{500}\n"; untie %db;
nstore { list => [1 .. 10], text => 'x' }, "$dir/store"; print scalar @{ retrieve("$dir/store")->{list} }, "\n";
open my $lock, '>', "$dir/lock"; flock $lock, LOCK_EX; if (!fork) { open my $other, '<', "$dir/lock"; exit !flock $other, LOCK_EX | LOCK_NB } wait; print $? >> 8, "\n"; close $lock;
open my $file, '+>', "$dir/f"; print $file 'abcdef'; seek $file, 2, SEEK_SET; read $file, my $two, 2; truncate $file, 3; print $two, -s $file, ' ', sha1_hex('abc') =~ /^a9993e/ ? 'sha' : '', "\n";
END
sed -i 's/use Fcntl qw(:flock :seek)/use Fcntl qw(:DEFAULT :flock :seek)/' files.pl
same files '50 2505
1 2 ../a/2
1000 1000
10
1
cd3 sha' $p files.pl

cat >threads.pl <<'END'
use strict; use threads; use threads::shared; use Thread::Queue;
my $sum :shared = 0; my $queue = Thread::Queue->new;
my @workers = map { threads->create(sub { while (defined(my $n = $queue->dequeue)) { lock $sum; $sum += $n } threads->tid }) } 1 .. 4;
$queue->enqueue($_) for 1 .. 500; $queue->end; my @ids = map { $_->join } @workers; print "$sum @ids\n";
END
same threads '125250 1 2 3 4' $p threads.pl

same 'one line in place' 'ONE' sh -c "echo one >f && $limited perl -i -pe '\$_ = uc' f && cat f"
same 'a script by #!' 'script 3' sh -c "printf '#!/usr/bin/perl\nprint \"script \", scalar @ARGV, \"\\\\n\"' >s && chmod +x s && $limited ./s a b c"
$p -e 'exit 7'
same 'exit status' 7 echo $?
$p -e 'die "words\n"' 2>words
same 'the status of die' '255 words' echo $? "$(cat words)"
