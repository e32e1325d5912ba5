package s3

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials/processcreds"
)

const (
	// helperWait bounds the wait for the pipes of a helper after its end,
	// because programs that it started may keep them open.
	helperWait = 2 * time.Second
	// maxHelperWords bounds the bytes of a helper's standard error that are kept.
	// They are the last ones, because programs say at the end why they failed.
	maxHelperWords = 4 << 10
)

// helperSource runs the credential_process of a profile. The SDK's own provider
// copies the helper's standard error into ours, in the middle of the log, and
// quotes the helper's output, secrets included, in messages.
type helperSource struct{ command string }

func helper(command string) aws.CredentialsProvider { return helperSource{command} }

// Retrieve runs the helper once.
func (h helperSource) Retrieve(ctx context.Context) (aws.Credentials, error) {
	said := &tail{limit: maxHelperWords}
	build := processcreds.NewCommandBuilderFunc(func(ctx context.Context) (*exec.Cmd, error) {
		cmd := exec.CommandContext(ctx, "sh", "-c", h.command)
		cmd.Env = environ()
		// There is no standard input, because no person may be there to answer.
		cmd.Stderr = said
		cmd.WaitDelay = helperWait
		endGroup(cmd)
		return cmd, nil
	})
	keys, err := processcreds.NewProviderCommand(build).Retrieve(ctx)
	if err == nil {
		return keys, nil
	}
	return keys, &processcreds.ProviderError{Err: h.explain(ctx, err, said.String())}
}

// explain describes a failure. It never shows the SDK's text for output that it
// cannot parse, because that text quotes the output.
func (h helperSource) explain(ctx context.Context, err error, said string) error {
	var exit *exec.ExitError
	text := strings.TrimPrefix(err.Error(), "process provider error: ")
	switch {
	case errors.As(err, &exit):
		text = exit.String()
	case strings.HasPrefix(text, "parse failed"):
		text = "its output is not the JSON of a credential_process"
	}
	switch {
	case ctx.Err() != nil:
		text = "ended, because it did not answer in time"
	case exit != nil && exit.ExitCode() == 127:
		text = "the program is not there (" + text + ")"
	}
	if said = line(said); said != "" {
		text += `: it says "` + said + `"`
	}
	return errors.New(text)
}

// environ returns the environment of a helper, which is this process's, as with
// the AWS tools.
func environ() []string {
	return os.Environ() //nolint:forbidigo // helpers inherit all of it, and halfPair searches it
}

// tail keeps the last bytes that are written to it.
type tail struct {
	limit int
	buf   []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p...)
	if n := len(t.buf) - t.limit; n > 0 {
		t.buf = append(t.buf[:0], t.buf[n:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return string(bytes.TrimSpace(t.buf)) }
