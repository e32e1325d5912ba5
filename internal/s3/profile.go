package s3

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/config"
)

// maxShared bounds a shared configuration file.
const maxShared = 1 << 20

// sharedFiles returns the shared configuration files, and the name of the
// profile to read from them.
func sharedFiles(o Options) (files []string, profile string) {
	env, err := config.NewEnvConfig()
	if err != nil {
		env = config.EnvConfig{} // LoadDefaultConfig reports it
	}
	first := func(values ...string) string {
		for _, v := range values {
			if v != "" {
				return v
			}
		}
		return ""
	}
	files = []string{
		first(env.SharedConfigFile, config.DefaultSharedConfigFilename()),
		first(env.SharedCredentialsFile, config.DefaultSharedCredentialsFilename()),
	}
	return files, first(o.Profile, env.SharedConfigProfile, config.DefaultSharedConfigProfile)
}

// readProfile reads the settings of a profile from a shared file. Settings of a
// nested section have names such as "s3.addressing_style". It is used for
// settings that the SDK does not read, and ignores lines that it cannot parse.
func readProfile(file, profile string) map[string]string {
	info, err := os.Stat(file)
	if err != nil || !info.Mode().IsRegular() || info.Size() > maxShared {
		return nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	return parseProfile(string(data), profile)
}

func parseProfile(text, profile string) map[string]string {
	out := map[string]string{}
	in, outer := false, ""
	for raw := range strings.Lines(text) {
		s := strings.TrimSpace(raw)
		switch {
		case s == "" || s[0] == '#' || s[0] == ';':
			continue
		case s[0] == '[':
			name, _, _ := strings.Cut(strings.TrimPrefix(s, "["), "]")
			name = strings.TrimSpace(name)
			if rest, ok := strings.CutPrefix(name, "profile"); ok && strings.TrimLeft(rest, " \t") != rest {
				name = strings.TrimSpace(rest)
			}
			in, outer = name == profile, ""
			continue
		case !in:
			continue
		}
		name, value, ok := strings.Cut(s, "=")
		name, value = strings.ToLower(strings.TrimSpace(name)), strings.TrimSpace(value)
		if i := strings.IndexAny(value, "#;"); i > 0 && (value[i-1] == ' ' || value[i-1] == '\t') {
			value = strings.TrimSpace(value[:i])
		}
		switch nested := raw[0] == ' ' || raw[0] == '\t'; {
		case !ok:
		case nested && outer != "":
			out[outer+"."+name] = value
		case !nested:
			outer = ""
			if out[name] = value; value == "" {
				outer = name
			}
		}
	}
	return out
}

// halfPair describes a likely reason why no keys are found: one half of a key
// pair, or a misspelt name.
func halfPair(files []string, profile string) string {
	env := map[string]bool{}
	for _, kv := range environ() {
		name, value, _ := strings.Cut(kv, "=")
		env[name] = value != ""
	}
	if has := env["AWS_ACCESS_KEY_ID"]; has != env["AWS_SECRET_ACCESS_KEY"] {
		lacks := "AWS_ACCESS_KEY_ID"
		if has {
			lacks = "AWS_SECRET_ACCESS_KEY"
		}
		return "the environment has half a key pair: " + lacks + " is not set"
	}
	const id, secret = "aws_access_key_id", "aws_secret_access_key" //nolint:gosec // names of settings, no secrets
	all := map[string]string{}
	for _, f := range files {
		maps.Copy(all, readProfile(f, profile))
	}
	half := func(has, lacks string) string {
		return fmt.Sprintf("profile %q has %s and no %s: give both, in %s", profile, has, lacks, strings.Join(files, " or "))
	}
	switch {
	case all[id] != "" && all[secret] == "":
		return half(id, secret)
	case all[id] == "" && all[secret] != "":
		return half(secret, id)
	}
	for name := range all {
		if strings.HasPrefix(name, "aws_") && !slices.Contains([]string{id, secret, "aws_session_token", "aws_security_token", "aws_account_id"}, name) {
			return fmt.Sprintf("profile %q has %s, which is not a setting: keys are %s and %s", profile, line(name), id, secret)
		}
	}
	return ""
}

// addressingStyle returns the addressing_style of the profile, which the SDK
// does not read: "path", "virtual", or "" for either.
func addressingStyle(files []string, profile string) (string, error) {
	style := readProfile(files[0], profile)["s3.addressing_style"]
	switch style {
	case "", "auto":
		return "", nil
	case "path", "virtual":
		return style, nil
	}
	return "", fmt.Errorf("s3: addressing_style %q of profile %q in %s: use auto, path or virtual", line(style), profile, files[0])
}
