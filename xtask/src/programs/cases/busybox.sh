# Applets of busybox, a process each.

b="$limited busybox"
printf 'pear 3\napple 1\nfig 2\napple 1\n' >fruit
mkdir -p tree/deep
echo one >tree/a
echo two >tree/deep/b

same echo 'a b' $b echo a b
same printf '007 x' $b printf '%03d %s' 7 x
same cat 'pear 3
apple 1
fig 2
apple 1' $b cat fruit
same sort 'apple 1
apple 1
fig 2
pear 3' $b sort fruit
same 'sort -u -k2nr' 'pear 3
fig 2
apple 1' $b sort -u -k2nr fruit
$b sort fruit >sorted
same 'uniq -c' '      2 apple 1
      1 fig 2
      1 pear 3' $b uniq -c sorted
same head 'pear 3' $b head -n 1 fruit
same tail 'apple 1' $b tail -n 1 fruit
same tac 'apple 1
fig 2
apple 1
pear 3' $b tac fruit
same wc '4 8 29 fruit' $b sh -c 'echo $(busybox wc fruit)'
same cut '3
1
2
1' $b cut -d ' ' -f 2 fruit
same grep '2:apple 1
4:apple 1' $b grep -n '^a.*1$' fruit
same sed 'PEAR 3' $b sed -n 's/pear/PEAR/p' fruit
same awk '7' $b awk '{ sum += $2 } END { print sum }' fruit
same tr 'HELLO' $b sh -c 'echo hello | busybox tr a-z A-Z'
same rev 'olleh' $b sh -c 'echo hello | busybox rev'
same seq '2 4 6' $b sh -c 'echo $(busybox seq 2 2 6)'
same expr 42 $b expr 6 '*' 7
same bc 1267650600228229401496703205376 $b sh -c 'echo 2^100 | busybox bc'
same factor '360: 2 2 2 3 3 5' $b factor 360
same basename b $b basename /a/b
same dirname /a $b dirname /a/b
same md5sum '5d41402abc4b2a76b9719d911017c592  -' $b sh -c 'printf hello | busybox md5sum'
same sha256sum '2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824  -' \
    $b sh -c 'printf hello | busybox sha256sum'
same base64 aGVsbG8= $b sh -c 'printf hello | busybox base64'
same xxd '68656c6c6f' $b sh -c 'printf hello | busybox xxd -p'
same od '0000000 150 145 154 154 157
0000005' $b sh -c 'printf hello | busybox od -b'
same find 'tree/a
tree/deep/b' $b sh -c 'busybox find tree -type f | busybox sort'
same xargs 'one two' $b sh -c 'echo tree/a tree/deep/b | busybox xargs cat | busybox xargs echo'
same 'tar and gzip' 'one
two' $b sh -c 'busybox tar czf t.tgz tree && busybox mkdir -p out && busybox tar xzf t.tgz -C out && cat out/tree/a out/tree/deep/b'
same 'bzip2 and bunzip2' 'pear 3' $b sh -c 'busybox bzip2 -c fruit | busybox bunzip2 -c | busybox head -n 1'
same 'base64 -d and xzcat' two $b sh -c 'echo /Td6WFoAAATm1rRGAgAhARYAAAB0L+WjAQADdHdvCgBlBtb/xMD5OgABHARvLJzBH7bzfQEAAAAABFla | busybox base64 -d | busybox xzcat'
same cpio 'tree/a' $b sh -c 'echo tree/a | busybox cpio -o -H newc 2>/dev/null | busybox cpio -t 2>/dev/null'
same diff '--- tree/a
+++ tree/deep/b
@@ -1 +1 @@
-one
+two' $b sh -c 'busybox diff -L tree/a -L tree/deep/b tree/a tree/deep/b; [ $? = 1 ]'
check cmp $b cmp fruit fruit
check 'cp, mv, rm' $b sh -c 'busybox cp -r tree copy && busybox mv copy moved && busybox cmp tree/a moved/a && busybox rm -r moved && [ ! -e moved ]'
same 'ln and readlink' fruit $b sh -c 'busybox ln -s fruit link && busybox readlink link'
same stat 29 $b stat -c %s fruit
same 'chmod and stat' 640 $b sh -c 'busybox chmod 640 fruit && busybox stat -c %a fruit'
same 'dd' 'apple' $b sh -c 'busybox dd if=fruit bs=1 skip=7 count=5 2>/dev/null'
same 'truncate' 1000000 $b sh -c 'busybox truncate -s 1000000 big && busybox stat -c %s big'
check 'mkfifo' $b sh -c 'busybox mkfifo p && { echo through >p & } && [ "$(busybox cat p)" = through ]'
same 'date' '2009-02-13 23:31:30' $b date -u -d @1234567890 '+%Y-%m-%d %H:%M:%S'
check sleep $b sleep 0.1
check 'timeout ends a program' $b sh -c 'busybox timeout 1 busybox sleep 60; [ $? = 143 ]'
check 'kill and wait' $b sh -c 'busybox sleep 60 & busybox kill -9 $!; wait $!; [ $? = 137 ]'
check ps $b sh -c 'busybox ps | busybox grep -q "sh /dune/programs"'
same env b $b env A=b busybox sh -c 'echo $A'
same id 0 $b id -u
check 'nc over loopback' $b sh -c 'echo over | busybox nc -l -p 4000 -w 20 & busybox sleep 1; [ "$(busybox nc -w 10 127.0.0.1 4000 </dev/null)" = over ]'
