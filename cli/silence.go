package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
)

// pingEvery is after how long without a byte a server is asked for a sign of life:
// the shortest that gRPC takes, and twice what an etcd allows. One that gives none
// within the time of an answer loses the connection.
const pingEvery = 10 * time.Second

// errSilent: a server was there, and is not any more.
var errSilent = errors.New("does not answer any more")

// whileThere is ctx until a server has not been reached for the time of an answer.
// By itself etcd's client tries for another connection without end. However slow
// things are, while there is a connection nothing ends. who names the server.
func (a *access) whileThere(ctx context.Context, client *clientv3.Client, who string) (there context.Context, stop func()) {
	there, cancel := context.WithCancelCause(ctx)
	conn := client.ActiveConnection()
	// Owner: the caller; stop ends it, and the end of ctx.
	go func() {
		for there.Err() == nil {
			if s := conn.GetState(); s == connectivity.Ready || s == connectivity.Idle { // Idle: nobody asks for anything
				conn.WaitForStateChange(there, s)
			} else if !isReady(there, conn, a.timeout) {
				cancel(fmt.Errorf("%s %w: for %v there has been no connection", who, errSilent, a.timeout))
			}
		}
	}()
	return there, func() { cancel(nil) }
}

func isReady(ctx context.Context, conn *grpc.ClientConn, patience time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for s := conn.GetState(); s != connectivity.Ready; s = conn.GetState() {
		if !conn.WaitForStateChange(ctx, s) {
			return false
		}
	}
	return true
}

// whySilent puts before an error that a server is gone, if that is why.
func whySilent(there context.Context, err error) error {
	if cause := context.Cause(there); err != nil && errors.Is(cause, errSilent) {
		return fmt.Errorf("%w (%w)", cause, err)
	}
	return err
}

// isLost tells whether a call ended with its connection.
func isLost(err error) bool { return status.Code(err) == codes.Unavailable }
