package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"
)

// streamPatience bounds how long a stream may be silent, or may take to come.
const streamPatience = time.Minute

// quiet drops what http.Server says of connections that break.
var quiet = log.New(io.Discard, "", 0)

// streams serves what the API server passes on of kubectl exec and kubectl
// port-forward, with a kubelet's own library.
func (n *node) streams() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/exec/{namespace}/{pod}/{container}", func(w http.ResponseWriter, r *http.Request) {
		options, err := remotecommand.NewOptions(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		remotecommand.ServeExec(w, r, n, r.PathValue("pod"), "", r.PathValue("container"), r.URL.Query()["command"], options,
			streamPatience, streamPatience, remotecommand.SupportedStreamingProtocols)
	})
	mux.HandleFunc("/portForward/{namespace}/{pod}", func(w http.ResponseWriter, r *http.Request) {
		options, err := portforward.NewV4Options(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		portforward.ServePortForward(w, r, n, r.PathValue("pod"), "", options, streamPatience, streamPatience, portforward.SupportedProtocols)
	})
	return mux
}

// ExecInContainer implements remotecommand.Executor.
func (n *node) ExecInContainer(_ context.Context, name, _, _ string, argv []string, in io.Reader, out, errs io.WriteCloser, tty bool, _ <-chan remotecommand.TerminalSize, _ time.Duration) error {
	p, err := n.pod(name)
	if err != nil {
		return err
	}
	if tty {
		return errors.New("this node has no terminals")
	}
	err = p.exec(argv, func(cmd *exec.Cmd) {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, errs
		cmd.WaitDelay = time.Second // whoever has more to say on stdin must not keep a command that has ended
	})
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return utilexec.CodeExitError{Err: err, Code: exit.ExitCode()}
	}
	return err
}

// PortForward implements portforward.PortForwarder: to the Pod's own loopback.
func (n *node) PortForward(ctx context.Context, name, _ string, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	p, err := n.pod(name)
	if err != nil {
		return err
	}
	box := p.box.Load()
	if box == nil {
		return errors.New("the container is not running")
	}
	conn, err := box.net.DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", fmt.Sprint(port)))
	if err != nil {
		return err
	}
	defer conn.Close()
	// Owner: this call; ends when the connection is closed.
	go func() { _, _ = io.Copy(conn, stream); _ = conn.(*net.TCPConn).CloseWrite() }()
	_, err = io.Copy(stream, conn)
	if err != nil && strings.Contains(err.Error(), "closed") {
		return nil
	}
	return err
}

func ignoreGone(err error) error {
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}
