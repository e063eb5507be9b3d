"""Tokens for Amazon MSK with IAM: `kafka.oauth_cb = "msk_iam:token"`.

Install `aws-msk-iam-sasl-signer-python`, put this file into a folder of PYTHONPATH, and set
`"sasl.oauthbearer.config" = "eu-central-1"`, the region of the cluster. The signer finds the
credentials as the AWS command line does: a role, a profile, or variables.
"""

from aws_msk_iam_sasl_signer import MSKAuthTokenProvider


def token(region: str) -> tuple[str, float]:
    """Return a token, and when it expires in seconds since the epoch."""
    signed, expiry_milliseconds = MSKAuthTokenProvider.generate_auth_token(region)
    return signed, expiry_milliseconds / 1000
