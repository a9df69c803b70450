# A program of ours, linked dynamically and statically; it tells its checks itself.

for kind in dynamic static; do
    $enter "$2-program-$kind" >output
    status=$?
    sed "s/^@\([a-z]*\) /@\1 $kind: /" output
    same "$kind: the status" 0 echo $status
done
