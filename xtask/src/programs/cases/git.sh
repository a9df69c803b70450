# git, whose commands are many small programs: a repository whose hashes are known beforehand.

export GIT_AUTHOR_NAME=author GIT_AUTHOR_EMAIL=author@example.org GIT_AUTHOR_DATE='2020-01-01T00:00:00Z'
export GIT_COMMITTER_NAME=author GIT_COMMITTER_EMAIL=author@example.org GIT_COMMITTER_DATE='2020-01-01T00:00:00Z'
git() { $limited git "$@"; }
# Nothing, or what went wrong.
quiet() { "$@" >/tmp/quiet.log 2>&1 || cat /tmp/quiet.log; }

same init '' git init -q -b main repository
cd repository || exit 96
for number in $(seq 20); do
    seq "$number" $((number + 2000)) >"file$number"
    quiet git add "file$number"
    quiet git commit -q -m "commit $number"
done
same 'twenty commits' bc44c1c3a5fc515057d8e67de8bd7a79b1e28cd0 git rev-parse HEAD
same 'a branch' '' git checkout -q -b other HEAD~10
echo other >other
quiet git add other
quiet git commit -q -m other
same 'a merge' '' quiet git merge -q -m merged main
same 'its hash' 55e1e1c4403d3d6d7fdc62ebc7fffd0c0bc7b42c git rev-parse HEAD
same grep 20 sh -c "$limited git grep -c '^1999\$' main | wc -l"
same blame 2001 sh -c "$limited git blame main -- file1 | wc -l"
quiet git bisect start main main~15
quiet git bisect run test ! -e file15
same bisect 'commit 15' git log -1 --format=%s refs/bisect/bad
quiet git bisect reset
same gc '' git gc -q
same fsck '' git fsck --no-dangling --no-progress
same clone '' git clone -q . ../clone
same 'the clone has all' 21 sh -c 'ls ../clone | wc -l'
