// Ask the API for the class of a picture: java Classify.java MODEL PICTURE. Needs Java 11 or newer.
import java.net.URI;
import java.net.http.*;
import java.nio.file.Path;
import java.util.*;
import java.util.regex.*;

public class Classify {
    public static void main(String[] arguments) throws Exception {
        Map<String, String> environment = System.getenv();
        String address = environment.getOrDefault("CLASSIFY_URL", "http://127.0.0.1:8080") + "/predictions/" + arguments[0];
        String login = environment.get("CLASSIFY_USER") + ":" + environment.get("CLASSIFY_PASSWORD");
        HttpRequest request = HttpRequest.newBuilder(URI.create(address))
            .header("Authorization", "Basic " + Base64.getEncoder().encodeToString(login.getBytes("UTF-8")))
            .header("Content-Type", "application/octet-stream")
            .PUT(HttpRequest.BodyPublishers.ofFile(Path.of(arguments[1]))).build();
        HttpResponse<String> response = null;
        for (int attempt = 0; attempt < 30; attempt++) {
            response = HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString());
            if (response.statusCode() != 503) break;
            Thread.sleep(1000 * response.headers().firstValueAsLong("Retry-After").orElse(1));
        }
        if (response.statusCode() != 200) {
            // 401: wrong user or password; 422: the picture is broken, or not of the model's kind
            System.err.println(response.statusCode() + ": " + find(response.body(), "message"));
            System.exit(1);
        }
        StringJoiner line = new StringJoiner(" ");
        for (String key : List.of("class", "score", "threshold", "cannot_tell")) {
            line.add(key + "=" + find(response.body(), key));
        }
        System.out.println(line);
    }

    /** Java has no JSON of its own: this reads one text, number or truth value; a larger program uses Jackson. */
    static String find(String json, String key) {
        Matcher found = Pattern.compile("\"" + key + "\":\\s*(?:\"((?:[^\"\\\\]|\\\\.)*)\"|([^,}\\s]+))").matcher(json);
        if (!found.find()) return "unknown";
        return found.group(1) != null ? found.group(1) : found.group(2);
    }
}
