# A C program through all stages; the driver starts them as children, then each stage is run on its own.

cat >program.c <<'END'
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static sigjmp_buf back;
static __thread int own = 5;

static void on_fault(int signal) { siglongjmp(back, signal); }

static void *thread(void *argument) {
    own += (int)(long)argument;
    return (void *)(long)own;
}

int main(int count, char **words) {
    (void)words;
    char *text = malloc(1 << 20);
    memset(text, 'x', 1 << 20);
    printf("%.6f %zu\n", sqrt(2.0), strnlen(text, 1 << 20));
    pthread_t threads[4];
    long sum = 0;
    for (long i = 0; i < 4; i++) pthread_create(&threads[i], NULL, thread, (void *)i);
    for (int i = 0; i < 4; i++) {
        void *result;
        pthread_join(threads[i], &result);
        sum += (long)result;
    }
    printf("threads %ld\n", sum);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) _exit(7);
    int status;
    waitpid(child, &status, 0);
    printf("child %d\n", WEXITSTATUS(status));
    signal(SIGSEGV, on_fault);
    int signal = sigsetjmp(back, 1);
    if (signal == 0) *(volatile int *)(16L * count) = 1;
    printf("signal %d\n", signal);
    return 3;
}
END
expected='1.414214 1048576
threads 26
child 7
signal 11
status 3'
run() { "$@"; echo "status $?"; }

check 'gcc compiles' $limited gcc -O2 -Wall -Werror -o program program.c -lm -pthread
same 'the program runs' "$expected" run $limited ./program
check 'gcc -static compiles' $limited gcc -O2 -static -o program-static program.c -lm -pthread
same 'the static program runs' "$expected" run $limited ./program-static
check 'cpp' $limited cpp -o program.i program.c
check 'cc1' $limited "$(gcc -print-prog-name=cc1)" -quiet -O2 -fpreprocessed program.i -o program.s
check 'as' $limited as -o program.o program.s
gcc -### -o staged program.o -lm -pthread 2>linking
# The linker's own words, without the wrapper that gcc starts it by.
linker="$(gcc -print-prog-name=collect2) $(grep collect2 linking | sed 's/.*collect2"* //')"
check 'ld' sh -c "$limited $linker"
same 'the program of all stages runs' "$expected" run $limited ./staged
check 'objdump' sh -c "$limited objdump -d staged | grep -q '<main>:'"
check 'ar and nm' sh -c "$limited ar rcs lib.a program.o && $limited nm lib.a | grep -q 'T main'"

mkdir project
cd project || exit 96
for number in 1 2 3 4 5 6; do echo "int part$number(void) { return $number; }" >part$number.c; done
{
    for number in 1 2 3 4 5 6; do echo "int part$number(void);"; done
    echo 'int main(void) { return part1() + part2() + part3() + part4() + part5() + part6(); }'
} >main.c
printf 'CC = gcc\nprogram: $(patsubst %%.c,%%.o,$(wildcard *.c))\n\t$(CC) -o $@ $^\nclean:\n\trm -f *.o program\n' >Makefile
check 'make, two jobs at a time' $limited make -j2
same 'what it has built runs' 'status 21' run $limited ./program
same 'nothing is left to do' "make: 'program' is up to date." $limited make
touch part3.c
same 'one part is built anew' 'gcc -c -o part3.o part3.c' sh -c "$limited make CFLAGS= | sed 's/  */ /g' | head -n 1"
echo 'int part4(void) { return; }' >part4.c
same 'an error ends it' 'status 2' sh -c "$limited make CFLAGS=-Werror >/dev/null 2>&1; echo status \$?"
check 'make clean' sh -c "$limited make clean && [ ! -e program ]"
