# GNU coreutils, a process each; what each has to print is known beforehand.

c=$limited
printf 'pear 3\napple 1\nfig 2\napple 1\n' >fruit
printf '1 one\n2 two\n4 four\n' >left
printf '1 eins\n2 zwei\n3 drei\n' >right
mkdir -p tree/deep
echo one >tree/a
echo two >tree/deep/b

same 'printf and echo' '0x00ff|3.14|a b' $c sh -c 'env printf "%#06x|%.2f|" 255 3.14159; env echo a b'
same 'cat -A' 'a^Ib$' $c sh -c 'printf "a\tb\n" | cat -A'
same tac 'apple 1
fig 2
apple 1
pear 3' $c tac fruit
same nl '     1  pear 3' $c sh -c 'nl -s "  " fruit | head -n 1'
same 'sort -k2n -u' 'apple 1
fig 2
pear 3' $c sort -k2n -u fruit
same 'sort with threads and files of its own' '0e10426a1d5bddffcef02f1345787128' \
    $c sh -c 'seq 200000 | shuf --random-source=/dev/zero | sort -n --parallel=2 -S 1M | md5sum | cut -c -32'
same 'uniq -c' '2 apple 1' $c sh -c 'sort fruit | uniq -c | sort -rn | head -n 1 | sed "s/^ *//"'
same 'join' '1 one eins
2 two zwei' $c join left right
same 'comm' 'b' $c sh -c 'printf "a\nb\n" >1; printf "b\nc\n" >2; comm -12 1 2'
same 'paste and cut' '1:pear,2:apple' $c sh -c 'seq 2 >n; cut -d " " -f 1 fruit | head -n 2 | paste -d : n - | paste -s -d ,'
same 'tr, fold and fmt' 'AB
CD
EF' $c sh -c 'echo abcdef | tr a-z A-Z | fold -w 2 | fmt -w 2'
same 'tsort' 'a
b
c' $c sh -c 'echo "a b b c" | tsort'
same 'split and cat' 7 $c sh -c 'seq 1000 >all; split -n 7 all part. && cat part.* | busybox cmp - all && ls part.* | wc -l'
same 'csplit' 'zwei,drei' $c sh -c 'cut -d " " -f 2 right >words; csplit -s words /zwei/ && paste -s -d , xx01'
same 'numfmt and factor' '1.5K 360: 2 2 2 3 3 5' $c sh -c 'echo $(numfmt --to=iec 1536) $(factor 360)'
same 'factor of a large number' '18446744073709551617: 274177 67280421310721' $c factor 18446744073709551617
same 'expr and test' '42 yes' $c sh -c 'echo $(expr 6 \* 7) $(env test 3 -lt 4 && echo yes)'
same 'seq -f' '01.5 02.0 02.5' $c sh -c 'echo $(seq -f %04.1f 1.5 0.5 2.5)'
same 'od' '6568 6c6c 006f' $c sh -c 'echo $(printf hello | od -An -t x2)'
same 'base32 and base64' 'NBSWY3DP aGVsbG8=' $c sh -c 'echo $(printf hello | base32) $(printf hello | base64)'
same 'cksum and sum' '3287646509 5' $c sh -c 'printf hello | cksum'
check 'sha256sum -c' $c sh -c 'sha256sum fruit tree/a >sums && sha256sum --status -c sums && echo >>fruit && ! sha256sum --status -c sums'
same 'b2sum' 'e4cfa39a3d37be31' $c sh -c 'printf hello | b2sum | cut -c -16'
check 'cp -a keeps all' $c sh -c 'ln -s deep/b tree/link && touch -d 2001-02-03 tree/a && chmod 640 tree/a && cp -a tree copy &&
    [ "$(stat -c "%a %Y" tree/a)" = "$(stat -c "%a %Y" copy/a)" ] && [ "$(readlink copy/link)" = deep/b ]'
check 'mv between file systems' $c sh -c 'cp -r tree moving && mv moving /dev/shm/moved && [ "$(cat /dev/shm/moved/deep/b)" = two ] && [ ! -e moving ] &&
    rm -r /dev/shm/moved'
check 'ln and rm' $c sh -c 'ln fruit hard && [ "$(stat -c %h fruit)" = 2 ] && rm hard && [ "$(stat -c %h fruit)" = 1 ]'
same 'readlink -f and realpath' '/tmp/tree/deep/b deep' $c sh -c \
    'echo $(readlink -f tree/link) $(realpath --relative-to=tree tree/./deep/../deep)'
same 'install' '750 4' $c sh -c 'install -D -m 750 tree/a new/place/a && echo $(stat -c "%a %s" new/place/a)'
check 'mkdir, rmdir, unlink' $c sh -c 'mkdir -p p/q/r && rmdir -p p/q/r && [ ! -e p ] && : >u && unlink u && [ ! -e u ]'
check 'mktemp' $c sh -c 'f=$(mktemp) && [ -f "$f" ] && d=$(mktemp -d) && [ -d "$d" ] && rm -r "$f" "$d"'
same 'stat' 'regular file 4 /tmp/tree/a' $c stat -c '%F %s %n' /tmp/tree/a
same 'touch and date' '2001-02-03T04:05:06' $c sh -c 'touch -d "2001-02-03 04:05:06 UTC" t && date -u -r t +%FT%T'
same 'date calculates' '2024-03-01' $c date -u -d '2024-02-28 + 2 days' +%F
same 'ls -l' '-rw-r----- 1 root root 4 tree/a' $c sh -c 'ls -l tree/a | sed -E "s/ [A-Z][a-z]{2} +[0-9]+ +[0-9:]+ / /"'
same 'ls -R' 'tree:
a
deep
link

tree/deep:
b' $c ls -R tree
same 'du and truncate' '1000000 0' $c sh -c 'truncate -s 1000000 hole && echo $(stat -c %s hole) $(du hole | cut -f 1)'
check 'df' $c sh -c 'df -P /tmp | tail -n 1 | grep -q "^tmpfs .* /tmp$"'
same 'dd' '300000' $c sh -c 'dd if=/dev/zero bs=1000 count=300 2>/dev/null | dd of=z conv=fsync 2>/dev/null; stat -c %s z'
same 'head and tail' '5 6 996' $c sh -c 'seq 1000 >s; echo $(head -n 6 s | tail -n 2) $(tail -n +996 s | head -n 1)'
check 'tail -f sees what comes' $c sh -c 'seq 3 >grow; timeout 20 tail -f grow >seen & tail=$!
    n=0; until grep -q 3 seen || [ $n -gt 100 ]; do n=$((n + 1)); sleep 0.1; done
    echo new >>grow; n=0; until grep -q new seen || [ $n -gt 100 ]; do n=$((n + 1)); sleep 0.1; done; kill $tail; grep -q new seen'
same 'tee' 'x
x' $c sh -c 'echo x | tee copy1 && cat copy1'
same 'yes and wc' '20000 40000' $c sh -c 'echo $(yes | head -n 20000 | wc -lc)'
same 'timeout' '124' $c sh -c 'timeout 1 sleep 60; echo $?'
same 'kill by env' '143' $c sh -c '{ sleep 60 & env kill $!; wait $!; } 2>/dev/null; echo $?'
same 'env -i' 'A=b' $c env -i A=b env
same 'nice' '7' $c nice -n 7 nice
same 'stdbuf' 'through' $c sh -c 'echo through | stdbuf -oL cat'
same 'nohup' 'kept' $c sh -c 'nohup sh -c "kill -HUP \$\$; echo kept" 2>/dev/null | tail -n 1'
check 'mkfifo' $c sh -c 'mkfifo p && { echo over >p & } && [ "$(cat p)" = over ]'
same 'id and whoami' '0 root' $c sh -c 'echo $(id -u) $(whoami)'
same 'uname' 'Linux x86_64' $c uname -sm
same 'pwd' /tmp/tree $c sh -c 'cd tree && env pwd -P'
same 'status of false' 1 $c sh -c 'env false; echo $?'
check 'sync' $c sync fruit
check 'shred' $c sh -c 'echo secret >hidden && shred -u -n 1 hidden && [ ! -e hidden ]'
same 'errors go by status and words' "2 ls: cannot access 'none': No such file or directory" $c sh -c 'text=$(ls none 2>&1); echo "$? $text"'
