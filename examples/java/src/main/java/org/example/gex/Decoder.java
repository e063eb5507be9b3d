package org.example.gex;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.ObjectMapper;
import gex.levels.LevelsEvent;
import gex.levels.LevelsState;
import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.ByteBuffer;
import java.nio.file.DirectoryStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.NoSuchAlgorithmException;
import java.time.Duration;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import org.apache.avro.AvroRuntimeException;
import org.apache.avro.Schema;
import org.apache.avro.SchemaCompatibility;
import org.apache.avro.SchemaCompatibility.SchemaCompatibilityType;
import org.apache.avro.SchemaNormalization;
import org.apache.avro.io.DecoderFactory;
import org.apache.avro.specific.SpecificDatumReader;
import org.apache.avro.specific.SpecificRecord;
import org.apache.avro.util.ClassSecurityValidator;

/** Decodes values that were written with any version of the schemas. */
final class Decoder {
    static {
        // Avro makes objects of trusted classes only.
        ClassSecurityValidator.setGlobal(ClassSecurityValidator.composite(
                ClassSecurityValidator.DEFAULT,
                type -> type.getPackage() == LevelsEvent.class.getPackage()));
    }

    private static final Duration REGISTRY_TIMEOUT = Duration.ofSeconds(10);

    // Confluent framing: a zero byte, and the schema's id in the registry.
    private static final int CONFLUENT_PREFIX_BYTES = 5;
    // Avro single-object encoding: C3 01, and the schema's fingerprint.
    private static final int SINGLE_OBJECT_PREFIX_BYTES = 10;

    private final Optional<String> registry;
    private final HttpClient http = HttpClient.newHttpClient();
    private final Map<ByteBuffer, Schema> writers = new HashMap<>();
    private final Map<ByteBuffer, SpecificDatumReader<?>> readers = new HashMap<>();

    /**
     * Makes a decoder that knows the schemas it was built with, and the older ones below a folder.
     *
     * @param registry without one, only values in single-object encoding are decoded
     */
    Decoder(Optional<String> registry, Path released) {
        this.registry = registry;
        learn(LevelsEvent.getClassSchema());
        learn(LevelsState.getClassSchema());
        if (Files.isDirectory(released)) {
            try (DirectoryStream<Path> versions = Files.newDirectoryStream(released)) {
                for (Path version : versions) {
                    load(version);
                }
            } catch (IOException | AvroRuntimeException e) {
                throw new ConsumerException("cannot load the schemas below %s: %s", released, e);
            }
        }
    }

    private void load(Path version) throws IOException {
        Schema.Parser parser = new Schema.Parser();
        // A type comes before the types that use it.
        for (String name : List.of("Status", "Source", "Levels", "LevelsEvent", "LevelsState")) {
            learn(parser.parse(version.resolve("gex.levels." + name + ".avsc").toFile()));
        }
    }

    private void learn(Schema schema) {
        writers.put(ByteBuffer.wrap(singleObjectPrefix(schema)), schema);
    }

    LevelsEvent event(byte[] value) {
        return decode(value, LevelsEvent.getClassSchema());
    }

    LevelsState state(byte[] value) {
        return decode(value, LevelsState.getClassSchema());
    }

    private <T extends SpecificRecord> T decode(byte[] value, Schema ours) {
        boolean isConfluent = value.length > 0 && value[0] == 0;
        int size = isConfluent ? CONFLUENT_PREFIX_BYTES : SINGLE_OBJECT_PREFIX_BYTES;
        if (value.length < size) {
            throw new ConsumerException("a value of %d bytes is too short for a framed Avro datum", value.length);
        }
        SpecificDatumReader<T> reader = reader(ByteBuffer.wrap(value, 0, size), ours);
        try {
            return reader.read(null, DecoderFactory.get().binaryDecoder(value, size, value.length - size, null));
        } catch (IOException | AvroRuntimeException e) {
            throw new ConsumerException("a value cannot be decoded: %s", e.getMessage());
        }
    }

    @SuppressWarnings("unchecked")
    private <T> SpecificDatumReader<T> reader(ByteBuffer prefix, Schema ours) {
        SpecificDatumReader<?> known = readers.get(prefix);
        if (known != null) {
            return (SpecificDatumReader<T>) known;
        }
        Schema writer = writers.get(prefix);
        if (writer == null) {
            writer = fetch(prefix);
        }
        var compatibility = SchemaCompatibility.checkReaderWriterCompatibility(ours, writer);
        if (compatibility.getType() != SchemaCompatibilityType.COMPATIBLE) {
            throw new ConsumerException(
                    "schema %s cannot be read by this version: update this program and schemas/", name(prefix));
        }
        SpecificDatumReader<T> reader = new SpecificDatumReader<>(writer, ours);
        readers.put(copy(prefix), reader);
        return reader;
    }

    private Schema fetch(ByteBuffer prefix) {
        if (prefix.get(0) != 0) {
            throw new ConsumerException(
                    "schema %s is unknown: build with schemas/ of the connector's version that writes the topic",
                    name(prefix));
        }
        String base = registry.orElseThrow(() -> new ConsumerException(
                "schema %s is in a schema registry: pass its address with --registry", name(prefix)));
        String address = "%s/schemas/ids/%s".formatted(base, name(prefix));
        HttpResponse<String> response = ask(address, name(prefix));
        if (response.statusCode() != 200) {
            throw new ConsumerException(
                    "schema %s: %s answers %d: check --registry", name(prefix), address, response.statusCode());
        }
        try {
            return new Schema.Parser()
                    .parse(new ObjectMapper().readTree(response.body()).path("schema").asText());
        } catch (JsonProcessingException | AvroRuntimeException e) {
            throw new ConsumerException(
                    "schema %s: %s does not answer with an Avro schema: check --registry", name(prefix), address);
        }
    }

    private HttpResponse<String> ask(String address, String schema) {
        try {
            HttpRequest request =
                    HttpRequest.newBuilder(URI.create(address)).timeout(REGISTRY_TIMEOUT).build();
            return http.send(request, HttpResponse.BodyHandlers.ofString());
        } catch (IllegalArgumentException e) {
            throw new ConsumerException("%s is no URL: check --registry, such as http://127.0.0.1:8081", address);
        } catch (IOException | InterruptedException e) {
            throw new ConsumerException("schema %s: no answer from %s (%s): check --registry", schema, address, e);
        }
    }

    private static byte[] singleObjectPrefix(Schema schema) {
        try {
            byte[] fingerprint = SchemaNormalization.parsingFingerprint("CRC-64-AVRO", schema);
            return ByteBuffer.allocate(SINGLE_OBJECT_PREFIX_BYTES)
                    .put((byte) 0xC3)
                    .put((byte) 1)
                    .put(fingerprint)
                    .array();
        } catch (NoSuchAlgorithmException e) {
            throw new IllegalStateException(e);
        }
    }

    /** Returns a schema's id or fingerprint, as messages show it. */
    private static String name(ByteBuffer prefix) {
        if (prefix.get(0) == 0) {
            return Integer.toUnsignedString(prefix.getInt(1));
        }
        return HexFormat.of().formatHex(copy(prefix).array());
    }

    private static ByteBuffer copy(ByteBuffer prefix) {
        byte[] bytes = new byte[prefix.remaining()];
        prefix.duplicate().get(bytes);
        return ByteBuffer.wrap(bytes);
    }
}
