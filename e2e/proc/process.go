package proc

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Process is one program that a test starts, ends and starts again; one Log holds what all its
// runs wrote. Its methods are for one goroutine at a time.
type Process struct {
	Name string   // for messages
	Path string   // of the program
	Env  []string // added to an environment without ETCD_* and LIMPET_*
	Log  *Log

	t     testing.TB
	cmd   *exec.Cmd
	ended chan struct{} // closed once cmd was waited for
}

// NewProcess prepares a run of the program at path. It ends with the test; if the test failed, the
// end of its log is printed.
func NewProcess(t testing.TB, name, path string) *Process {
	t.Helper()
	p := &Process{Name: name, Path: path, Log: newLog(), t: t}
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("end of the log of %s:\n%s", p.Name, p.Log.Tail(tailLines))
		}
	})
	return p
}

// Launch starts the program and does not wait for anything. The child belongs to the namespaces of
// the calling thread.
func (p *Process) Launch(args ...string) {
	p.t.Helper()
	if p.Alive() {
		p.t.Fatalf("%s runs already", p.Name)
	}
	cmd := exec.Command(p.Path, args...)
	cmd.Env = append(cleanEnv(), p.Env...)
	cmd.Stdout, cmd.Stderr = p.Log, p.Log
	cmd.SysProcAttr = childAttr()
	p.Log.mark(strings.Join(cmd.Args, " "))
	if err := cmd.Start(); err != nil {
		p.t.Fatalf("start %s: %v", cmd, err)
	}
	ended := make(chan struct{})
	// Owner: this run of the process; ends when the child does.
	go func() {
		cmd.Wait()
		close(ended)
	}()
	p.cmd, p.ended = cmd, ended
}

// cleanEnv is the test's environment without the variables that would configure a server.
func cleanEnv() []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "ETCD_") && !strings.HasPrefix(v, "LIMPET_") {
			env = append(env, v)
		}
	}
	return env
}

// Alive tells whether the program runs, paused or not.
func (p *Process) Alive() bool {
	if p.cmd == nil {
		return false
	}
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// Ended is closed once the run that was launched last is over.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// PID is the id of the run that was launched last.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Kill ends the program with SIGKILL and waits for its end.
func (p *Process) Kill() {
	p.t.Helper()
	if !p.Alive() {
		p.t.Fatalf("%s was to be killed and is dead already", p.Name)
	}
	p.kill()
}

func (p *Process) kill() {
	if p.Alive() {
		p.cmd.Process.Kill()
		<-p.ended
	}
}

// Pause stops the program in the middle of whatever it does, until Continue; it does not notice.
func (p *Process) Pause() {
	p.t.Helper()
	p.signal(syscall.SIGSTOP)
}

// Continue ends a Pause.
func (p *Process) Continue() {
	p.t.Helper()
	p.signal(syscall.SIGCONT)
}

func (p *Process) signal(sig syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.t.Fatalf("%v to %s: %v", sig, p.Name, err)
	}
}

// Terminate sends SIGTERM and waits for the end, at most for deadline.
func (p *Process) Terminate(deadline time.Duration) Exit {
	p.t.Helper()
	start := time.Now()
	p.signal(syscall.SIGTERM)
	return p.WaitExit(start, deadline)
}

// Exit says how a process ended.
type Exit struct {
	Code   int            // -1 if a signal ended it
	Signal syscall.Signal // that signal
	Took   time.Duration
}

// Clean tells whether the program ended as it does after SIGTERM: limpet with 0; etcd raises the
// signal again for itself.
func (e Exit) Clean(kind Kind) bool {
	return e.Code == 0 || (kind == Etcd || kind == Etcd35) && e.Signal == syscall.SIGTERM
}

// WaitExit waits for the program to end by itself, at most until deadline after start.
func (p *Process) WaitExit(start time.Time, deadline time.Duration) Exit {
	p.t.Helper()
	timer := time.NewTimer(time.Until(start.Add(deadline)))
	defer timer.Stop()
	select {
	case <-p.ended:
	case <-timer.C:
		p.t.Fatalf("%s still runs after %v", p.Name, deadline)
	}
	status := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	exit := Exit{Code: p.cmd.ProcessState.ExitCode(), Took: time.Since(start)}
	if status.Signaled() {
		exit.Signal = status.Signal()
	}
	return exit
}
