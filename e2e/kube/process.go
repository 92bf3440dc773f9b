package kube

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// errStillRunning is returned by Stop when the process outlived its grace.
var errStillRunning = errors.New("still running after its grace, killed")

// Process is a running program with its output in a file.
//
// Invariant: it is dead once Kill or Stop has returned, and dies with the test
// binary in any case (see dieWithParent).
type Process struct {
	Name string
	Log  string // path of the file that takes stdout and stderr, appended

	cmd    *exec.Cmd
	exited chan struct{} // closed after Wait; err is set before
	err    error
}

// launches hands functions to the one thread that starts processes. Linux ties
// the parent-death signal to the thread that forked, not to the process, so
// that thread must live as long as the test binary.
var launches = sync.OnceValue(func() chan<- func() {
	queue := make(chan func())
	// Owner: the test binary; ends with it.
	go func() {
		runtime.LockOSThread()
		for launch := range queue {
			launch()
		}
	}()
	return queue
})

// StartProcess starts bin with args. The environment is the test's own plus env,
// without what would configure a store: a stray ETCD_* must not decide a story.
func StartProcess(name, log string, env []string, bin string, args ...string) (*Process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command(bin, args...)
	for _, pair := range append(os.Environ(), env...) {
		if !strings.HasPrefix(pair, "ETCD_") && !strings.HasPrefix(pair, "LIMPET_") {
			cmd.Env = append(cmd.Env, pair)
		}
	}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = dieWithParent()
	return startCommand(name, log, cmd, func(cmd *exec.Cmd) error {
		started := make(chan error)
		launches() <- func() { started <- cmd.Start() }
		return <-started
	})
}

// startCommand has start start cmd, whose output goes to log.
func startCommand(name, log string, cmd *exec.Cmd, start func(*exec.Cmd) error) (*Process, error) {
	if err := start(cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &Process{Name: name, Log: log, cmd: cmd, exited: make(chan struct{})}
	// Owner: p; ends when the process does, which Kill and Stop wait for.
	go func() {
		p.err = cmd.Wait()
		close(p.exited)
	}()
	return p, nil
}

// Alive says whether the process has not ended yet.
func (p *Process) Alive() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// Kill ends the process as a power cut would: SIGKILL, no last words.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // fails only if it is dead already
	<-p.exited
}

// Stop asks the process to end (SIGTERM) and kills it after grace. It returns
// how the process ended: nil is exit status 0.
func (p *Process) Stop(grace time.Duration) error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // fails only if it is dead already
	select {
	case <-p.exited:
		return p.err
	case <-time.After(grace):
		p.Kill()
		return fmt.Errorf("%s: %w", p.Name, errStillRunning)
	}
}

// Freeze stops the process in its tracks (SIGSTOP), with its connections open.
func (p *Process) Freeze() error { return p.cmd.Process.Signal(syscall.SIGSTOP) }

// Thaw lets a frozen process go on.
func (p *Process) Thaw() error { return p.cmd.Process.Signal(syscall.SIGCONT) }

// Tail returns about the last n bytes of the log, from the start of a line.
func (p *Process) Tail(n int64) string {
	f, err := os.Open(p.Log)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err.Error()
	}
	from := max(0, size-n)
	text := make([]byte, size-from)
	if _, err := f.ReadAt(text, from); err != nil && !errors.Is(err, io.EOF) {
		return err.Error()
	}
	if _, rest, ok := bytes.Cut(text, []byte("\n")); ok && from > 0 {
		text = rest
	}
	return string(text)
}

// FreePorts returns n ports of 127.0.0.1 that nobody listened on just now. All
// are held until the last is found, so that they differ.
func FreePorts(n int) ([]int, error) {
	ports := make([]int, n)
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		ports[i] = l.Addr().(*net.TCPAddr).Port
	}
	return ports, nil
}
