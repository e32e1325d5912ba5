package s3

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/processcreds"
	"github.com/aws/aws-sdk-go-v2/credentials/ssocreds"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/penstock/penstock/internal/httprange"
)

// keyChain is the source of keys that the configuration selects.
type keyChain struct {
	provider aws.CredentialsProvider // nil if there is none
	source   string                  // name for messages: `credential_process of profile "lab"`
	hint     string                  // likely mistake in the configuration
	names    [3]string               // names of access key, secret and token in the source
	files    []string                // files that may hold other keys after a change
	stamps   []stamp                 // state of the files when they were last read
}

// stamp identifies the state of a file, to see whether it was replaced or
// rewritten.
type stamp struct {
	info fs.FileInfo // nil if the file does not exist
}

func stampsOf(files []string) []stamp {
	out := make([]stamp, len(files))
	for i, f := range files {
		if info, err := os.Stat(f); err == nil {
			out[i].info = info
		}
	}
	return out
}

func (s stamp) same(o stamp) bool {
	if s.info == nil || o.info == nil {
		return s.info == o.info
	}
	return os.SameFile(s.info, o.info) && s.info.Size() == o.info.Size() && s.info.ModTime().Equal(o.info.ModTime())
}

// changed reports whether a file differs from when it was read.
func (k *keyChain) changed() bool {
	return !slices.EqualFunc(k.stamps, stampsOf(k.files), stamp.same)
}

// fetch asks the source for keys, bypassing caches.
func (k *keyChain) fetch(ctx context.Context) (aws.Credentials, error) {
	if k.provider == nil {
		return aws.Credentials{}, errNoSource
	}
	if cache, ok := k.provider.(*aws.CredentialsCache); ok {
		cache.Invalidate()
	}
	keys, err := k.provider.Retrieve(ctx)
	if err != nil {
		return aws.Credentials{}, err
	}
	if keys.AccessKeyID == "" || keys.SecretAccessKey == "" {
		return aws.Credentials{}, errNoSource
	}
	return keys, checkKeys(keys, k.names)
}

var errNoSource = errors.New("no source of credentials is configured")

// optionNames are the names of the parts of Options.Credentials.
var optionNames = [3]string{"access key id", "secret access key", "session token"}

// chainOf describes the credentials of a configuration. stamps are the state of
// the files when the configuration was read.
func chainOf(cfg aws.Config, o Options, files []string, stamps []stamp) keyChain {
	if o.Credentials != nil {
		return keyChain{provider: o.Credentials, source: "the given credentials", names: optionNames}
	}
	k := keyChain{provider: cfg.Credentials, files: files, stamps: stamps, names: optionNames}
	shared := sharedOf(cfg)
	profile := fmt.Sprintf("profile %q", shared.Profile)
	var sources []aws.CredentialSource
	if p, ok := cfg.Credentials.(interface {
		ProviderSources() []aws.CredentialSource
	}); ok {
		sources = p.ProviderSources()
	}
	sources = slices.DeleteFunc(slices.Clone(sources), func(s aws.CredentialSource) bool {
		return s == aws.CredentialSourceProfileSourceProfile || s == aws.CredentialSourceProfileNamedProvider
	})
	role := len(sources) > 1 && slices.Contains(sources, aws.CredentialSourceSTSAssumeRole)
	first := aws.CredentialSourceUndefined
	if len(sources) > 0 {
		first = sources[0]
	}
	switch first {
	case aws.CredentialSourceEnvVars:
		k.source = "the environment"
		k.names = [3]string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"}
	case aws.CredentialSourceEnvVarsSTSWebIDToken:
		k.source = "web identity of the environment (AWS_WEB_IDENTITY_TOKEN_FILE, AWS_ROLE_ARN)"
	case aws.CredentialSourceProfile:
		k.source = "the keys of " + profile
		k.names = [3]string{"aws_access_key_id of " + profile, "aws_secret_access_key of " + profile, "aws_session_token of " + profile}
	case aws.CredentialSourceProfileSTSWebIDToken:
		k.source = "web identity of " + profile
	case aws.CredentialSourceProfileSSO, aws.CredentialSourceSSO, aws.CredentialSourceProfileSSOLegacy, aws.CredentialSourceSSOLegacy:
		k.source = "single sign-on of " + profile + " (renew it with aws sso login)"
	case aws.CredentialSourceProfileLogin, aws.CredentialSourceLogin:
		k.source = "the login session of " + profile + " (renew it with aws login)"
	case aws.CredentialSourceProfileProcess, aws.CredentialSourceProcess:
		k.source = "credential_process of " + profile
		if command := shared.CredentialProcess; command != "" && !role {
			k.provider = helper(command)
		}
	case aws.CredentialSourceHTTP:
		k.source = "the container's credential endpoint (AWS_CONTAINER_CREDENTIALS_FULL_URI or _RELATIVE_URI)"
	case aws.CredentialSourceIMDS:
		k.source = "instance metadata"
		if shared.RoleARN == "" { // the SDK tries it when nothing else is configured
			k.hint = halfPair(files, shared.Profile)
		}
	default:
		k.source = "the configured credentials"
	}
	if role {
		k.source = fmt.Sprintf("role %s of %s, by %s", shared.RoleARN, profile, k.source)
	}
	return k
}

// sharedOf returns the profile that a configuration comes from.
func sharedOf(cfg aws.Config) config.SharedConfig {
	for _, s := range cfg.ConfigSources {
		switch s := s.(type) {
		case config.SharedConfig:
			return s
		case *config.SharedConfig:
			return *s
		}
	}
	return config.SharedConfig{}
}

// blameOf returns the cause of a source's failure, which decides whether asking
// the source again may help.
func blameOf(err error) blame {
	var helper *processcreds.ProviderError
	var login *ssocreds.InvalidTokenError
	var api smithy.APIError
	var flaw *keyFlawError
	status := statusOf(err)
	switch {
	case errors.Is(err, errNoSource):
		return blameMissing
	case errors.As(err, &flaw), errors.As(err, &login), errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		return blameRefused
	case status == http.StatusTooManyRequests, status >= 500:
		return blamePassing
	case isMetadata(err):
		return blameMissing // this machine has no such service, or the service has no role
	case errors.As(err, &api) && isTemporary(api.ErrorCode()):
		return blamePassing
	case errors.As(err, &api), status != 0:
		return blameRefused
	case errors.As(err, &helper):
		return blameHelper
	case isNetwork(err):
		return blamePassing
	}
	return blameRefused
}

// statusOf returns the HTTP status of a source's answer, or 0 without an
// answer.
func statusOf(err error) int {
	var answer interface{ HTTPStatusCode() int }
	if errors.As(err, &answer) {
		return answer.HTTPStatusCode()
	}
	return 0
}

// isMetadata reports whether an error comes from the metadata service of EC2,
// which the SDK tries when nothing else is configured.
func isMetadata(err error) bool {
	var op *smithy.OperationError
	return errors.As(err, &op) && op.Service() == "ec2imds"
}

// isTemporary reports whether a code of a token service means a temporary failure.
func isTemporary(code string) bool {
	switch code {
	case "Throttling", "ThrottlingException", "ThrottledException", "RequestLimitExceeded", "RequestThrottled", "TooManyRequestsException",
		"ServiceUnavailable", "InternalFailure", "InternalError", "InternalServerError", "InternalServerException",
		"IDPCommunicationError", "RequestTimeout", "RequestTimeTooSkewed", "SlowDown":
		return true
	}
	return false
}

// isNetwork reports whether a source did not answer.
func isNetwork(err error) bool {
	var ne net.Error
	var send *smithyhttp.RequestSendError
	return errors.As(err, &ne) || errors.As(err, &send) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, errRefreshTimeout)
}

// sourceMessage returns the source's own message about a failure, as one line
// without secrets.
func sourceMessage(err error) string {
	if err == nil {
		return ""
	}
	var api smithy.APIError
	if errors.As(err, &api) && api.ErrorMessage() != "" {
		code, message := api.ErrorCode(), ": "+api.ErrorMessage()
		if code == "" || code == "UnknownError" { // the SDK's code for an answer that it does not understand
			code = fmt.Sprintf("HTTP %d", statusOf(err))
			message = strings.TrimSuffix(message, ": UnknownError")
		}
		return line(code + message)
	}
	text := err.Error()
	var helper *processcreds.ProviderError
	if errors.As(err, &helper) && helper.Err != nil {
		text = helper.Err.Error()
	}
	var ue *url.Error
	if errors.As(err, &ue) { // the URL may carry a token
		text = fmt.Sprintf("%s %s: %v", strings.ToUpper(ue.Op), httprange.RedactURL(ue.URL), ue.Err)
	}
	return line(strings.TrimPrefix(text, "failed to refresh cached credentials, "))
}
