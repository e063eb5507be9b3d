package org.example.gex;

/** The program cannot go on. The message says why, and what to do about it. */
final class ConsumerException extends RuntimeException {
    private static final long serialVersionUID = 1;

    ConsumerException(String format, Object... arguments) {
        super(String.format(format, arguments));
    }
}
