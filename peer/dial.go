package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"
)

// nextAfter is how long an address may be silent before the next one is tried
// beside it.
const nextAfter = 300 * time.Millisecond

// Stream is the raft side of a port: a net.Listener that can also dial.
type Stream struct{ branch }

// Stream returns the raft side of the port.
func (p *Port) Stream() *Stream { return &Stream{branch{p, p.raft}} }

// Dial connects to the member whose ID, in hex, is the address.
func (s *Stream) Dial(address string, timeout time.Duration) (net.Conn, error) {
	id, err := strconv.ParseUint(address, 16, 64)
	if err != nil {
		return nil, fmt.Errorf("peer: %q is not a member's ID", address)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	c, _, err := s.port.dial(ctx, Raft, id, s.port.cfg.Where(id))
	return c, err
}

// Who asks whoever is at addr who it is, and whether we are wanted there.
func (p *Port) Who(ctx context.Context, addr string) (*Answer, error) {
	return p.who(ctx, Ask, addr)
}

// Look asks whoever is at addr only who it is.
func (p *Port) Look(ctx context.Context, addr string) (*Answer, error) {
	return p.who(ctx, Look, addr)
}

func (p *Port) who(ctx context.Context, why Purpose, addr string) (*Answer, error) {
	c, answer, err := p.dial(ctx, why, 0, []string{addr})
	if err != nil {
		return nil, err
	}
	_ = c.Close() // it has answered, whatever becomes of the connection
	return answer, nil
}

// dial connects to a member at the first of addrs that turns out to be it; to
// is 0 for whoever is there.
func (p *Port) dial(ctx context.Context, why Purpose, to uint64, addrs []string) (net.Conn, *Answer, error) {
	if len(addrs) == 0 {
		return nil, nil, fmt.Errorf("no address of member %x is known", to)
	}
	ctx, cancel := context.WithTimeout(ctx, greetPatience)
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)()
	results := make(chan outcome, len(addrs))
	var errs []error
	started, ended := 0, 0
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ended < len(addrs) {
		select {
		case <-timer.C:
			if started < len(addrs) {
				addr := addrs[started]
				// Owner: this call; ends with ctx, which the call cancels.
				go func() { results <- p.greet(ctx, why, to, addr) }()
				started++
				timer.Reset(nextAfter)
			}
		case r := <-results:
			ended++
			if r.err != nil {
				errs = append(errs, r.err)
				timer.Reset(0)
				continue
			}
			cancel()
			for range started - ended {
				if late := <-results; late.conn != nil {
					_ = late.conn.Close()
				}
			}
			return r.conn, r.answer, nil
		}
	}
	err := oneOf(errs)
	p.unreached(to, err)
	return nil, nil, err
}

// oneOf prefers what another member said over what the network did.
func oneOf(errs []error) error {
	for _, err := range errs {
		var r *Refusal
		if errors.As(err, &r) && r.Code != OtherMember {
			return err
		}
	}
	return errs[0]
}

// outcome is that of one greeting: a connection and an answer, or an error.
type outcome struct {
	conn   *conn
	answer *Answer
	err    error
}

// greet connects to addr and introduces us. It ends when ctx does.
func (p *Port) greet(ctx context.Context, why Purpose, to uint64, addr string) outcome {
	var d net.Dialer
	raw, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return outcome{err: err}
	}
	c := p.track(raw, to, why)
	if c == nil {
		return outcome{err: net.ErrClosed}
	}
	// An expired deadline wakes whoever reads or writes; closing would race with
	// the end of the greeting.
	calm := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
	answer, err := p.introduce(ctx, c, hostOf(addr), why, to)
	if !calm() {
		err = ctx.Err()
	}
	if err != nil {
		if errors.Is(err, ErrOtherToken) || errors.Is(err, ErrCertificate) {
			p.say("token"+addr, "a connection to a member was closed", "address", addr, "error", err)
		}
		_ = c.Close()
		return outcome{err: fmt.Errorf("%s: %w", addr, err)}
	}
	if to != 0 {
		p.join(c, to)
	}
	return outcome{c, answer, nil}
}

func (p *Port) meet(h Hello, why Purpose) *Refusal {
	if p.cfg.Meet == nil || why != Raft && why != Call {
		return nil
	}
	return p.cfg.Meet(h)
}

func (p *Port) introduce(ctx context.Context, c *conn, host string, why Purpose, to uint64) (*Answer, error) {
	answer, err := p.exchange(ctx, c, host, why, to)
	if err != nil {
		return nil, silenceError(p.trustError(err))
	}
	if answer.Refused == nil && to != 0 && answer.ID != to {
		return nil, &Refusal{OtherMember, fmt.Sprintf("this is member %x, not %x", answer.ID, to)}
	}
	if answer.Refused != nil {
		if p.cfg.Refused != nil {
			p.cfg.Refused(answer.Refused)
		}
		if answer.Refused.Code != OtherMember && answer.Refused.Code != NoMember {
			p.say("to"+string(answer.Refused.Code)+fmt.Sprint(answer.ID), "refused by a member", "member", fmt.Sprintf("%x", answer.ID),
				"name", answer.Name, "cluster", fmt.Sprintf("%x", answer.Cluster), "remote", c.RemoteAddr().String(), "reason", answer.Refused.Text)
		}
		return nil, answer.Refused
	}
	if r := p.meet(answer.Hello, why); r != nil {
		p.say("met"+string(r.Code)+fmt.Sprint(answer.ID), "a member is not wanted", "member", fmt.Sprintf("%x", answer.ID),
			"name", answer.Name, "remote", c.RemoteAddr().String(), "reason", r.Text)
		return nil, r
	}
	return answer, nil
}

// exchange says who we are and hears who answers at host.
func (p *Port) exchange(ctx context.Context, c *conn, host string, why Purpose, to uint64) (*Answer, error) {
	cfg := p.cfg.TLS
	if p.cfg.CallTLS != nil {
		cfg = p.cfg.CallTLS(host)
	}
	if cfg != nil {
		t := tls.Client(c.Conn, cfg)
		c.wrap(t)
		if err := t.HandshakeContext(ctx); err != nil {
			return nil, err
		}
	}
	hello := p.cfg.Self()
	hello.Purpose, hello.To = why, to
	if err := writeJSON(c, magic, hello); err != nil {
		return nil, err
	}
	answer := new(Answer)
	return answer, readJSON(c, answer)
}

var (
	// ErrOtherToken: the other side has no token, or another one.
	ErrOtherToken = errors.New("peer: the other side has another token, or none")
	errToken      = fmt.Errorf("%w: it speaks TLS, this member does not", ErrOtherToken)
	// ErrCertificate: one side does not accept the certificate that the other one
	// was given.
	ErrCertificate = errors.New("peer: the two sides do not accept each other's certificates")
	errPlain       = errors.New("peer: it speaks without TLS")
	// ErrSilent is all that shows of a token if only the other side has one.
	ErrSilent = errors.New("peer: the connection was closed without an answer: the other side is stopping, or one of the two has a token and the other has none")
)

// trustError recognises what TLS says when tokens differ, or certificates do
// not fit.
func (p *Port) trustError(err error) error {
	var (
		plain tls.RecordHeaderError
		cert  *tls.CertificateVerificationError
		op    *net.OpError
	)
	given := p.cfg.CallTLS != nil
	switch {
	case errors.Is(err, ErrOtherToken):
		return err
	case given && errors.As(err, &plain):
		return fmt.Errorf("%w (%w)", errPlain, err)
	case given && errors.Is(err, errPlain):
		return err
	case errors.Is(err, errPlain), errors.As(err, &plain), errors.As(err, &cert),
		errors.As(err, &op) && op.Op == "remote error": // an alert from the other side; crypto/tls has no type for it but with QUIC
		if given {
			return fmt.Errorf("%w: %w", ErrCertificate, err)
		}
		return fmt.Errorf("%w: %w", ErrOtherToken, err)
	}
	return err
}

// silenceError says what a connection that ends before the answer may mean.
func silenceError(err error) error {
	for _, end := range silences {
		if errors.Is(err, end) {
			return fmt.Errorf("%w (%w)", ErrSilent, err)
		}
	}
	return err
}
