package lintel.vr;

import java.io.IOException;
import java.lang.reflect.Method;
import java.lang.reflect.Modifier;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.TreeSet;
import java.util.jar.JarEntry;
import java.util.jar.JarFile;
import java.util.stream.Stream;
import org.apache.beam.sdk.testing.ValidatesRunner;
import org.junit.Test;
import org.junit.experimental.categories.Category;

/**
 * Lists the ValidatesRunner tests of a jar and of a folder of classes. Arguments: the jar; the
 * folder; a file to write their classes to, as Surefire wants them; a file to write each test to,
 * with its categories.
 */
public final class ListTests {
  private static final String CATEGORIES = "org.apache.beam.sdk.testing.";

  private final TreeSet<String> classes = new TreeSet<>();
  private final List<String> tests = new ArrayList<>();

  public static void main(String[] args) throws IOException {
    ListTests list = new ListTests();
    try (JarFile jar = new JarFile(args[0])) {
      for (JarEntry entry : Collections.list(jar.entries())) {
        String name = entry.getName();
        if (name.endsWith(".class") && !name.startsWith("META-INF/")) {
          list.addClass(name);
        }
      }
    }
    Path folder = Path.of(args[1]);
    try (Stream<Path> files = Files.walk(folder)) {
      files.map(f -> folder.relativize(f).toString()).filter(f -> f.endsWith(".class")).forEach(list::addClass);
    }
    Collections.sort(list.tests);
    Files.write(Path.of(args[2]), list.classes);
    Files.write(Path.of(args[3]), list.tests);
    System.out.printf("%d tests in %d classes%n", list.tests.size(), list.classes.size());
  }

  private void addClass(String file) {
    String name = file.substring(0, file.length() - ".class".length()).replace('/', '.');
    try {
      Class<?> type = Class.forName(name, false, ListTests.class.getClassLoader());
      if (Modifier.isAbstract(type.getModifiers())) {
        return;
      }
      for (Method method : type.getMethods()) {
        if (method.isAnnotationPresent(Test.class)) {
          addTest(file, type, method);
        }
      }
    } catch (LinkageError | ClassNotFoundException e) {
      // It needs a library of another module of Beam: no test of ours.
      System.err.printf("passing over %s: %s%n", name, e);
    }
  }

  private void addTest(String file, Class<?> type, Method method) {
    TreeSet<String> categories = new TreeSet<>();
    boolean validates = false;
    for (Category c : new Category[] {type.getAnnotation(Category.class), method.getAnnotation(Category.class)}) {
      if (c == null) {
        continue;
      }
      for (Class<?> category : c.value()) {
        categories.add(category.getName().replace(CATEGORIES, ""));
        validates |= ValidatesRunner.class.isAssignableFrom(category);
      }
    }
    if (validates) {
      classes.add(file);
      tests.add(type.getName() + "#" + method.getName() + "\t" + String.join(",", categories));
    }
  }
}
