package s3

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// KeyFlaw describes a mistake in the spelling of an access key id, a secret
// access key or a session token, as the end of a sentence such as "key_id ends
// with a line break: remove it". It returns "" without a mistake, and never
// quotes the value. Stray characters are the most frequent mistake in secrets,
// and a service answers them like any wrong key.
func KeyFlaw(value string) string {
	trimmed := strings.TrimSpace(value)
	switch {
	case value == "":
		return "is empty"
	case trimmed == "":
		return "is nothing but white space: put the value there"
	case strings.HasSuffix(value, "\n") && strings.TrimRight(value, "\r\n") == trimmed:
		return "ends with a line break: remove it (echo -n, printf)"
	case trimmed != value:
		return "has white space at its beginning or end: remove it"
	case quoted(value):
		return "is in quotes: remove them"
	case strings.ContainsFunc(value, unicode.IsSpace):
		return "has white space in it: perhaps two values have become one"
	case strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' }):
		return "has a character that no key has: type it again, without a byte-order mark or typographic characters"
	}
	return ""
}

// quote quotes the beginning of a name from a user.
func quote(name string) string {
	if len(name) > maxMessage {
		name = name[:maxMessage] + "..."
	}
	return strconv.Quote(name)
}

func quoted(s string) bool {
	return len(s) > 1 && (s[0] == '"' || s[0] == '\'' || s[0] == '`') && s[len(s)-1] == s[0]
}

// keyFlawError reports a key with a flaw.
type keyFlawError struct{ name, flaw string }

func (e *keyFlawError) Error() string { return e.name + " " + e.flaw }

// checkKeys reports the first flaw of a key pair; names are the names of its
// parts.
func checkKeys(keys aws.Credentials, names [3]string) error {
	for i, value := range []string{keys.AccessKeyID, keys.SecretAccessKey, keys.SessionToken} {
		if i == 2 && value == "" {
			break
		}
		if flaw := KeyFlaw(value); flaw != "" {
			return &keyFlawError{names[i], flaw}
		}
	}
	return nil
}

// bucketRE is wider than S3's current rules, because old buckets and other
// stores do not follow them.
var bucketRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,254}$`)

// CheckBucket returns an error for a bucket's name that is a URI, has a path or
// white space, or cannot be a name for another reason.
func CheckBucket(name string) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("bucket %s: %s", quote(name), fmt.Sprintf(format, args...))
	}
	switch {
	case name == "":
		return errors.New("bucket: no name is given")
	case strings.TrimSpace(name) != name:
		return bad("it has white space at its beginning or end: remove it")
	case quoted(name):
		return bad("it is in quotes: remove them")
	case strings.HasPrefix(name, "arn:"):
		return nil // the SDK's endpoint rules know access points
	case strings.Contains(name, "://"):
		_, rest, _ := strings.Cut(name, "://")
		bucket, _, _ := strings.Cut(rest, "/")
		return bad("give the name alone, %s", quote(bucket))
	case strings.Contains(name, "/"):
		bucket, prefix, _ := strings.Cut(name, "/")
		return bad("a name has no slash: the bucket is %s, and %s is a prefix", quote(bucket), quote(prefix))
	case !bucketRE.MatchString(name):
		return bad("not a bucket name: use 3 to 63 lower-case letters, digits, hyphens and dots, or an access-point ARN")
	}
	return nil
}
