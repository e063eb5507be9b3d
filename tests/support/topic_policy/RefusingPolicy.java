import java.util.Arrays;
import java.util.HashSet;
import java.util.Map;
import java.util.Set;

import org.apache.kafka.common.errors.InvalidConfigurationException;
import org.apache.kafka.common.errors.PolicyViolationException;
import org.apache.kafka.server.policy.CreateTopicPolicy;

/**
 * Refuses to create topics with some settings, as managed clusters do.
 *
 * The broker's setting `test.refused` names them, separated by commas. With
 * `test.refusal=unknown` the answer is INVALID_CONFIG, as for a setting that does not
 * exist; otherwise it is POLICY_VIOLATION.
 */
public final class RefusingPolicy implements CreateTopicPolicy {
    private Set<String> refused = Set.of();
    private boolean asUnknown;

    @Override
    public void configure(Map<String, ?> settings) {
        refused = new HashSet<>(Arrays.asList(settings.get("test.refused").toString().split(",")));
        asUnknown = "unknown".equals(settings.get("test.refusal"));
    }

    @Override
    public void validate(RequestMetadata request) {
        for (String name : request.configs().keySet()) {
            if (refused.contains(name)) {
                if (asUnknown) {
                    throw new InvalidConfigurationException("not a setting of this service");
                }
                throw new PolicyViolationException("this setting is managed by the service");
            }
        }
    }

    @Override
    public void close() {
    }
}
