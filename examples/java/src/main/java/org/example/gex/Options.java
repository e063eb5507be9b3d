package org.example.gex;

import java.nio.file.Path;
import java.time.Duration;
import java.util.HashMap;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalInt;

/** The command line. */
record Options(
        String bootstrap,
        String changes,
        String current,
        Optional<String> registry,
        Path released,
        Optional<Duration> time,
        OptionalInt maxEvents,
        Duration patience) {

    static Options parse(String[] arguments) {
        Map<String, String> values = new HashMap<>(Map.of(
                "--bootstrap", "127.0.0.1:9092",
                "--prefix", "gex.levels",
                "--feed", "all",
                "--patience", "90",
                "--registry", "",
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

    private static Duration seconds(String text) {
        return Duration.ofMillis(Math.round(Double.parseDouble(text) * 1000));
    }
}
