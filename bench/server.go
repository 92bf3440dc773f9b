package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// readyWithin bounds a start. kine vacuums its whole file at each start; a million revisions took it seconds.
	readyWithin = 5 * time.Minute
	// stopWithin bounds a clean stop before the process is killed.
	stopWithin = time.Minute
)

// errExited is a server's end that nobody here asked for.
var errExited = errors.New("exited by itself")

// server is one running process of a side.
type server struct {
	side  *side
	place place
	pid   int
	began time.Time
	ready time.Duration // from exec until a linearizable get was answered
	exit  chan struct{} // closed once the process is gone and final is set
	final usage         // its cost over its whole life
	state error         // how it exited
	ended bool          // stop or kill was called
}

// newPlaces makes the places of a cluster's members, with free ports: one for each dir, to keep its data in.
func newPlaces(dirs ...string) ([]place, error) {
	ports, err := freePorts(2 * len(dirs))
	if err != nil {
		return nil, err
	}
	var (
		places  []place
		initial []string
	)
	for i, dir := range dirs {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
		at := place{name: fmt.Sprintf("m%d", i+1), dir: dir, log: dir + ".log", client: ports[2*i], peer: ports[2*i+1]}
		places, initial = append(places, at), append(initial, at.name+"="+at.peerURL())
	}
	for i := range places {
		places[i].initial = strings.Join(initial, ",")
	}
	return places, nil
}

// freePorts asks the kernel for n ports nobody listens on. Between here and the server's own listen another program
// may take one; the server then fails to start and the row says so.
func freePorts(n int) ([]int, error) {
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

// start runs a side's server and returns once it answers a linearizable get.
func (s *side) start(ctx context.Context, at place) (*server, error) {
	v, err := s.launch(at, false)
	if err != nil {
		return nil, err
	}
	return v, v.becomeReady(ctx)
}

// launch runs a side's server and does not wait for it.
func (s *side) launch(at place, pprof bool) (*server, error) {
	args := s.args(at)
	if pprof {
		args = append(args, s.pprof...)
	}
	logFile, err := os.OpenFile(at.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer logFile.Close()
	cmd := exec.Command(s.bin, args...)
	cmd.Dir = filepath.Dir(at.dir)
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // no server outlives this program
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	v := &server{side: s, place: at, pid: cmd.Process.Pid, began: began, exit: make(chan struct{})}
	go v.reap(cmd) // owned by v; ends with the process
	return v, nil
}

// becomeReady returns once the server answers a linearizable get. One that fails to is killed.
func (v *server) becomeReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	if err := v.awaitReady(ctx); err != nil {
		v.kill()
		return fmt.Errorf("%s did not become ready: %w (%s)", v.side.name, err, v.lastWords())
	}
	v.ready = time.Since(v.began)
	return nil
}

// reap waits for the end of the process and reads its whole cost before the kernel forgets it: a zombie still has its
// /proc/PID/stat and io.
func (v *server) reap(cmd *exec.Cmd) {
	defer close(v.exit)
	for {
		err := unix.Waitid(unix.P_PID, v.pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if err != unix.EINTR {
			break
		}
	}
	v.final, _ = readCost(v.pid)
	v.state = cmd.Wait()
}

// awaitReady returns once the port accepts and a linearizable get is answered.
func (v *server) awaitReady(ctx context.Context) error {
	address := v.address()
	for {
		c, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			c.Close()
			break
		}
		if err := v.pause(ctx, 2*time.Millisecond); err != nil {
			return err
		}
	}
	conn, err := dial(address)
	if err != nil {
		return err
	}
	defer conn.Close()
	for {
		err := probe(ctx, conn)
		if err == nil {
			return nil
		}
		if pauseErr := v.pause(ctx, 2*time.Millisecond); errors.Is(pauseErr, errExited) {
			return pauseErr
		} else if pauseErr != nil {
			return fmt.Errorf("%w; last answer: %v", pauseErr, err)
		}
	}
}

// pause waits d, or fails when the process or the context has ended.
func (v *server) pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-v.exit:
		return fmt.Errorf("it %w: %v", errExited, v.state)
	case <-time.After(d):
		return nil
	}
}

// address is host:port for clients.
func (v *server) address() string { return fmt.Sprintf("127.0.0.1:%d", v.place.client) }

// cost is the server's CPU and bytes so far.
func (v *server) cost() (usage, error) { return readCost(v.pid) }

// memory is what the server holds now.
func (v *server) memory() (usage, error) { return readMemory(v.pid) }

// stop ends the server cleanly, so that writing it had put off is done, and counted in final.
func (v *server) stop() error {
	if err := v.exited(); err != nil {
		return err
	}
	v.ended = true
	_ = unix.Kill(v.pid, unix.SIGTERM)
	select {
	case <-v.exit:
		return nil
	case <-time.After(stopWithin):
		v.kill()
		return fmt.Errorf("%s did not stop within %v of SIGTERM", v.side.name, stopWithin)
	}
}

// exited is the error of a server that ended by itself, with its last words; nil for any other.
func (v *server) exited() error {
	select {
	case <-v.exit:
		if !v.ended {
			return fmt.Errorf("%s %w: %v (%s)", v.side.name, errExited, v.state, v.lastWords())
		}
	default:
	}
	return nil
}

// end kills the server, and returns err or, when the server had already ended by itself, that as err's cause.
func (v *server) end(err error) error {
	if died := v.exited(); err != nil && died != nil && !errors.Is(err, errExited) {
		err = fmt.Errorf("%w, then: %w", died, err)
	}
	v.kill()
	return err
}

// lastWords is the line of the server's log that tells most: the first of a panic, or else the last.
func (v *server) lastWords() string {
	text, _ := os.ReadFile(v.place.log)
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "panic:") || strings.HasPrefix(line, "fatal error:") {
			return strings.TrimSpace(line)
		}
	}
	return lastLines(text, 1)
}

// kill ends the server at once; harmless when it is gone.
func (v *server) kill() {
	v.ended = true
	select {
	case <-v.exit:
	default:
		_ = unix.Kill(v.pid, unix.SIGKILL)
		<-v.exit
	}
}
