package org.example.gex;

import java.io.IOException;
import java.io.Reader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.HashMap;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalInt;
import java.util.Properties;
import java.util.TreeMap;

/** The command line. */
record Options(
        String bootstrap,
        String changes,
        String current,
        Optional<String> registry,
        Map<String, Object> clientSettings,
        Path released,
        Optional<Duration> time,
        OptionalInt maxEvents,
        Duration patience) {

    static Options parse(String[] arguments) {
        Map<String, String> values = new TreeMap<>(Map.of(
                "--bootstrap", "127.0.0.1:9092",
                "--prefix", "gex.levels",
                "--feed", "all",
                "--patience", "90",
                "--registry", "",
                "--config", "",
                "--schemas", "../../schemas",
                "--seconds", "",
                "--max-events", ""));
        for (int i = 0; i < arguments.length; i += 2) {
            if (!values.containsKey(arguments[i]) || i + 1 == arguments.length) {
                throw new ConsumerException(
                        "option %s is not known or has no value; options: %s", arguments[i], values.keySet());
            }
            values.put(arguments[i], arguments[i + 1]);
        }
        String topics = values.get("--prefix") + "." + values.get("--feed");
        try {
            return new Options(
                    values.get("--bootstrap"),
                    topics + ".changes",
                    topics + ".current",
                    given(values, "--registry"),
                    given(values, "--config").map(Options::load).orElse(Map.of()),
                    Path.of(values.get("--schemas"), "released"),
                    given(values, "--seconds").map(Options::seconds),
                    given(values, "--max-events")
                            .map(text -> OptionalInt.of(Integer.parseInt(text)))
                            .orElse(OptionalInt.empty()),
                    seconds(values.get("--patience")));
        } catch (NumberFormatException e) {
            throw new ConsumerException("an option is not a number: %s", e.getMessage());
        }
    }

    private static Optional<String> given(Map<String, String> values, String name) {
        return Optional.of(values.get(name)).filter(text -> !text.isEmpty());
    }

    /** Reads settings of Kafka's clients, as Kafka's own tools take them with --command-config. */
    private static Map<String, Object> load(String file) {
        Properties properties = new Properties();
        try (Reader reader = Files.newBufferedReader(Path.of(file))) {
            properties.load(reader);
        } catch (IOException | IllegalArgumentException e) {
            throw new ConsumerException("cannot read the properties of --config %s: %s", file, e);
        }
        Map<String, Object> settings = new HashMap<>();
        properties.stringPropertyNames().forEach(name -> settings.put(name, properties.getProperty(name)));
        return settings;
    }

    private static Duration seconds(String text) {
        return Duration.ofMillis(Math.round(Double.parseDouble(text) * 1000));
    }
}
