# status: 0
# needs: /usr/bin/javac
cat >"$HOME/Hello.java" <<'END'
import java.util.concurrent.*;
public class Hello {
  public static void main(String[] arguments) throws Exception {
    ExecutorService pool = Executors.newFixedThreadPool(3);
    Future<Integer> answer = pool.submit(() -> 6 * 7);
    System.out.println("hello " + answer.get());
    pool.shutdown();
    Process child = new ProcessBuilder("echo", "from a child").start();
    System.out.print(new String(child.getInputStream().readAllBytes()));
    System.exit(child.waitFor());
  }
}
END
javac -d "$HOME/classes" "$HOME/Hello.java" && exec java -cp "$HOME/classes" Hello
