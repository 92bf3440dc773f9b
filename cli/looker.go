package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/urfave/cli/v2"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"limpet/api/look"
)

// looker asks members for what was there before.
type looker struct {
	*access
	local  bool             // what the member knows, without asking the others
	etcd   *clientv3.Client // of all endpoints; nil: not needed yet, and a login costs the member time
	at     string           // the endpoint that answered last
	bearer map[string]string
}

// lookFlags are those of the commands that look into history.
func lookFlags(flags ...cli.Flag) []cli.Flag {
	flags = append(flags, &cli.BoolFlag{Name: "local", Usage: "what the member knows that is asked, without a leader's word that it is up to date"})
	return append(flags, accessFlags(10*time.Second)...)
}

// looking makes a command that looks into history. Its flags may stand behind its
// arguments, of which there are from least to most.
func looking(cmd *cli.Command, least, most int, do func(*cli.Context, *looker, []string) error) *cli.Command {
	cmd.OnUsageError = usageError
	cmd.Action = func(c *cli.Context) error {
		args, err := anyOrder(c, least, most)
		if err != nil {
			return err
		}
		a, err := newAccess(c)
		if err != nil {
			return err
		}
		l := &looker{access: a, local: c.Bool("local"), bearer: map[string]string{}}
		err = do(c, l, args)
		if l.etcd != nil {
			_ = l.etcd.Close()
		}
		return err
	}
	return cmd
}

// anyOrder sets the flags that stand behind arguments, and returns the arguments.
// What stands behind -- is an argument.
func anyOrder(c *cli.Context, least, most int) (args []string, err error) {
	all := c.Args().Slice()
	for i := 0; i < len(all); i++ {
		word := all[i]
		if word == "--" {
			args = append(args, all[i+1:]...)
			break
		}
		if i == 0 || len(word) < 2 || word[0] != '-' {
			args = append(args, word)
			continue
		}
		name, value, given := bytes.Cut(bytes.TrimLeft([]byte(word), "-"), []byte("="))
		flag := flagNamed(c.Command.Flags, string(name))
		if flag == nil {
			return nil, wrongUsage{fmt.Errorf("there is no flag --%s; see %s --help; a key that begins with - stands behind --", name, commandPath(c))}
		}
		text := string(value)
		if _, isBool := flag.(*cli.BoolFlag); isBool && !given {
			text = "true"
		} else if !given {
			if i++; i == len(all) {
				return nil, wrongUsage{fmt.Errorf("--%s needs a value; see %s --help", name, commandPath(c))}
			}
			text = all[i]
		}
		if err := c.Set(flag.Names()[0], text); err != nil {
			return nil, wrongUsage{fmt.Errorf("invalid value %q for flag --%s; see %s --help", text, name, commandPath(c))}
		}
	}
	if len(args) < least || len(args) > most {
		return nil, wrongUsage{fmt.Errorf("%s wants %s, got %d words; see %s --help", commandPath(c), c.Command.ArgsUsage, len(args), commandPath(c))}
	}
	return args, nil
}

func flagNamed(flags []cli.Flag, name string) cli.Flag {
	for _, f := range flags {
		for _, n := range f.Names() {
			if n == name {
				return f
			}
		}
	}
	return nil
}

// errNoHistory: who answers serves etcd's API alone.
var errNoHistory = errors.New("the member that answers tells no history: it is an older limpet, or no limpet")

// get asks the first endpoint that answers for a page of package look.
func (l *looker) get(ctx context.Context, path string, query url.Values) (*http.Response, error) {
	if l.local {
		query.Set("local", "true")
	}
	endpoints := l.endpoints
	if l.at != "" {
		endpoints = []string{l.at} // pages of one answer are from one member
	}
	var errs []error
	for _, ep := range endpoints {
		resp, err := l.getAt(ctx, ep, path+"?"+query.Encode())
		if err == nil {
			l.at = ep
			return resp, nil
		}
		if !errors.As(err, new(*url.Error)) {
			return nil, err // it has answered
		}
		errs = append(errs, fmt.Errorf("%s: %w", ep, unreached(err)))
	}
	return nil, errors.Join(errs...)
}

func (l *looker) getAt(ctx context.Context, endpoint, path string) (*http.Response, error) {
	client, req, err := l.request(ctx, endpoint, path)
	if err != nil {
		return nil, err
	}
	token, ok := l.bearer[endpoint]
	if !ok { // a login costs the member time
		if err := l.authorize(ctx, endpoint, req); err != nil {
			return nil, err
		}
		token = req.Header.Get("Authorization")
		l.bearer[endpoint] = token
	}
	if token != "" {
		req.Header.Set("Authorization", token)
	}
	resp, err := client.Do(req)
	if err != nil || resp.StatusCode == http.StatusOK {
		return resp, err
	}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
	_ = resp.Body.Close()
	text, ours := bytes.CutPrefix(bytes.TrimSpace(body), []byte("limpet: "))
	switch {
	case resp.StatusCode == http.StatusUnauthorized && l.user == "":
		return nil, fmt.Errorf("%s: authentication is enabled; give --user USER:PASSWORD, or set LIMPET_USER", endpoint)
	case ours:
		return nil, fmt.Errorf("%s: %s", endpoint, text)
	case resp.StatusCode == http.StatusNotFound:
		return nil, fmt.Errorf("%s: %w", endpoint, errNoHistory)
	}
	return nil, fmt.Errorf("%s: %s", endpoint, resp.Status)
}

// history calls fn for each change; query is look.HistoryPath's.
func (l *looker) history(ctx context.Context, query url.Values, fn func(*look.Change) error) (head look.Head, more bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	patience := time.AfterFunc(l.timeout, func() { cancel(fmt.Errorf("nothing came for %s (--timeout)", l.timeout)) })
	defer patience.Stop()
	resp, err := l.get(ctx, look.HistoryPath, query)
	if err != nil {
		return head, false, cause(ctx, err)
	}
	defer func() { _ = resp.Body.Close() }()
	for dec := json.NewDecoder(resp.Body); ; {
		var line look.Line
		if err := dec.Decode(&line); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				err = errors.New("the answer breaks off: ask again")
			}
			return head, false, cause(ctx, err)
		}
		patience.Reset(l.timeout)
		switch {
		case line.Error != "":
			return head, false, errors.New(line.Error)
		case line.Head != nil:
			head = *line.Head
		case line.End != nil:
			return head, line.End.More, nil
		case line.Change != nil:
			if err := fn(line.Change); err != nil {
				return head, false, err
			}
		}
	}
}

// cause is why ctx has ended, if it has.
func cause(ctx context.Context, err error) error {
	if why := context.Cause(ctx); why != nil {
		return why
	}
	return err
}

// find asks which revision w is, and where history begins.
func (l *looker) find(ctx context.Context, w when) (*look.Found, error) {
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	query := url.Values{}
	switch {
	case w.rev > 0:
		query.Set("revision", strconv.FormatInt(w.rev, 10))
	case !w.at.IsZero():
		query.Set("at", strconv.FormatInt(w.at.UnixMilli(), 10))
	}
	resp, err := l.get(ctx, look.RevisionPath, query)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	f := new(look.Found)
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<16)).Decode(f); err != nil {
		return nil, err
	}
	if w == (when{}) {
		f.Found = &f.Newest
	}
	return f, nil
}

// resolve is the revision of w, which must be in history.
func (l *looker) resolve(ctx context.Context, w when) (look.Moment, error) {
	f, err := l.find(ctx, w)
	if errors.Is(err, errNoHistory) && w.rev > 0 {
		return look.Moment{Revision: w.rev}, nil // etcd says what is wrong with it
	}
	if err != nil {
		return look.Moment{}, err
	}
	if f.Found == nil {
		return look.Moment{}, outside(w, f)
	}
	return *f.Found, nil
}

// outside says why w is not in history, and what is.
func outside(w when, f *look.Found) error {
	since := fmt.Sprintf("revision %d", f.Oldest.Revision)
	if f.Oldest.Time > 0 {
		since += " of " + momentText(f.Oldest.Time)
	}
	switch {
	case w.rev > f.Newest.Revision:
		return fmt.Errorf("revision %d has not happened yet; the newest is %d", w.rev, f.Newest.Revision)
	case w.rev > 0:
		return fmt.Errorf("revision %d is compacted; history begins with %s", w.rev, since)
	}
	return fmt.Errorf("no revision in history is as old as %s; history begins with %s", w.at.Format("2006-01-02 15:04:05 MST"), since)
}

// explainRead makes an answer of etcd's API about revisions a sentence.
func (l *looker) explainRead(ctx context.Context, rev int64, err error) error {
	wire := rpctypes.Error(err)
	if rev > 0 && (errors.Is(wire, rpctypes.ErrCompacted) || errors.Is(wire, rpctypes.ErrFutureRev)) {
		if f, ferr := l.find(ctx, when{rev: rev}); ferr == nil && f.Found == nil {
			return outside(when{rev: rev}, f)
		}
	}
	return l.explain(l.endpoints[0], err)
}

// speak is a client of etcd's API.
func (l *looker) speak() (*clientv3.Client, error) {
	if l.etcd != nil {
		return l.etcd, nil
	}
	var err error
	l.etcd, err = l.client(l.endpoints...)
	return l.etcd, err
}

// read is a range of etcd's API, within the time that was given for an answer.
func (l *looker) read(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	if l.local {
		opts = append(opts, clientv3.WithSerializable())
	}
	client, err := l.speak()
	if err != nil {
		return nil, err
	}
	return client.Get(ctx, key, opts...)
}
