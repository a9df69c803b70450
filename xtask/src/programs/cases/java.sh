# OpenJDK: a compiler in a compiled language, five collectors, and faults that the machine makes its own of.

PATH=/usr/lib/jvm/default-java/bin:$PATH
# Starting takes seconds on this machine.
limited="timeout --signal KILL 120 $enter"

cat >Heap.java <<'JAVA'
class Heap {
    static class Node {
        final Node next;
        final int number;
        final byte[] weight = new byte[100];
        Node(int number, Node next) { this.number = number; this.next = next; }
    }
    public static void main(String[] arguments) {
        long sum = 0;
        for (int round = 0; round < 20; round++) {
            Node first = null;
            for (int i = 0; i < 100000; i++) first = new Node(i, first);
            for (Node node = first; node != null; node = node.next) sum += node.number;
        }
        System.out.println(sum);
    }
}
JAVA
# Compiled code loads through null, below the end of the stack, and past the end of a file: SIGSEGV and SIGBUS.
cat >Faults.java <<'JAVA'
import java.nio.channels.FileChannel;
import java.nio.file.*;
class Faults {
    static int length(String text) { return text.length(); }
    static int deep(int level) { return deep(level + 1) + 1; }
    public static void main(String[] arguments) throws Exception {
        String[] texts = {"one", null};
        int caught = 0;
        for (int i = 0; i < 200000; i++)
            try { length(texts[i % 1000 == 999 ? 1 : 0]); } catch (NullPointerException error) { caught++; }
        System.out.println(caught);
        for (int i = 0; i < 10; i++)
            try { deep(0); } catch (StackOverflowError error) { caught++; }
        System.out.println(caught);
        Path path = Files.createTempFile("mapped", "");
        Files.write(path, new byte[1 << 20]);
        try (FileChannel file = FileChannel.open(path, StandardOpenOption.READ, StandardOpenOption.WRITE)) {
            var mapped = file.map(FileChannel.MapMode.READ_WRITE, 0, 1 << 20);
            for (int i = 0; i < 1 << 20; i += 4096) mapped.put(i, (byte) 1);
            file.truncate(4096);
            // The machine throws some instructions after the access.
            try { mapped.get(8192); Thread.sleep(1); } catch (InternalError error) { caught++; }
            System.out.println(caught + mapped.get(0));
        }
    }
}
JAVA
cat >Others.java <<'JAVA'
import java.net.*;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.AtomicLong;
class Others {
    public static void main(String[] arguments) throws Exception {
        ExecutorService pool = Executors.newFixedThreadPool(8);
        AtomicLong count = new AtomicLong();
        List<Future<?>> all = new ArrayList<>();
        for (int i = 0; i < 200; i++)
            all.add(pool.submit(() -> { for (int k = 0; k < 10000; k++) count.incrementAndGet(); }));
        for (Future<?> one : all) one.get();
        pool.shutdown();
        System.out.println(count);
        Process child = new ProcessBuilder("sh", "-c", "echo $((6 * 7)) | cat; exit 3").start();
        System.out.print(new String(child.getInputStream().readAllBytes()));
        System.out.println(child.waitFor());
        try (ServerSocket server = new ServerSocket(0, 1, InetAddress.getLoopbackAddress())) {
            Future<?> answer = ForkJoinPool.commonPool().submit(() -> {
                try (Socket client = server.accept()) { client.getOutputStream().write("an answer\n".getBytes()); }
                return null;
            });
            try (Socket client = new Socket(server.getInetAddress(), server.getLocalPort())) {
                System.out.print(new String(client.getInputStream().readAllBytes()));
            }
            answer.get();
        }
        Runtime.getRuntime().addShutdownHook(new Thread(() -> System.out.println("the last word")));
        System.exit(7);
    }
}
JAVA
check javac $limited javac Heap.java Faults.java Others.java
for collector in Serial Parallel G1 Z Shenandoah; do
    same "heap: $collector" 99999000000 $limited java -Xmx256m -XX:+Use${collector}GC Heap
done
same interpreter 99999000000 $limited java -Xmx256m -Xint Heap
same faults '200
210
212' $limited java Faults
same 'threads, a child, a server, an exit' '2000000
42
3
an answer
the last word
7' sh -c "$limited java Others; echo \$?"
