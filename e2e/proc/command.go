package proc

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"testing"
	"time"
)

const commandDeadline = 30 * time.Second

// Result is what a command left.
type Result struct {
	Code           int
	Stdout, Stderr string
}

// Command is a short-lived run of a program.
type Command struct {
	Path  string
	Args  []string
	Env   []string // added to an environment without ETCD_* and LIMPET_*
	Dir   string
	Setup func(*exec.Cmd) // for what else has to be so; may be nil
}

// Run runs the command to its end; the test fails if it does not end.
func (c Command) Run(t testing.TB) Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandDeadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.Path, c.Args...)
	cmd.Env = append(cleanEnv(), c.Env...)
	cmd.Dir = c.Dir
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.SysProcAttr = childAttr()
	if c.Setup != nil {
		c.Setup(cmd)
	}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		t.Fatalf("%s did not end:\n%s%s", cmd, stdout.String(), stderr.String())
	case err != nil && !errors.As(err, &exit):
		t.Fatalf("%s: %v", cmd, err)
	}
	return Result{Code: cmd.ProcessState.ExitCode(), Stdout: stdout.String(), Stderr: stderr.String()}
}
