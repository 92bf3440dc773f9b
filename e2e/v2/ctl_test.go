package v2

import (
	"fmt"
	"net/http"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"limpet/e2e/proc"
	"limpet/e2e/side"
)

// ctl is etcdctl 3.5 with ETCDCTL_API=2.
type ctl struct {
	args  string // split at spaces, in neutral names and IDs; '…' holds spaces together
	input string
}

// printed is what it left.
type printed struct {
	code           int
	stdout, stderr string
}

func (p printed) String() string {
	return fmt.Sprintf("exit code %d\nstdout: %s\nstderr: %s\n", p.code, p.stdout, p.stderr)
}

// run asks one member. Its lines are sorted if they are about members, which come by their IDs.
func (c ctl) run(t *testing.T, at *side.Target) printed {
	t.Helper()
	args := []string{"--endpoints=" + at.Server.ClientURL(), "--total-timeout=20s"} // 5 s are little on a busy machine
	for _, arg := range words(c.args) {
		for n := 1; n <= maxMembers; n++ {
			arg = strings.ReplaceAll(arg, memberID(n), fmt.Sprintf("%x", at.Names.RealID(side.MemberID(n))))
		}
		args = append(args, at.Names.RealText(arg))
	}
	result := proc.Command{
		Path: proc.Binary(t, proc.Etcdctl35), Args: args, Env: []string{"ETCDCTL_API=2"}, Dir: t.TempDir(),
		Setup: func(cmd *exec.Cmd) { cmd.Stdin = strings.NewReader(c.input) },
	}.Run(t)
	return printed{result.Code, printedText(at.Names.Text(result.Stdout)), printedText(at.Names.Text(result.Stderr))}
}

// words splits a command line at spaces outside single quotes.
func words(line string) []string {
	var all []string
	for n, part := range strings.Split(line, "'") {
		if n%2 == 1 {
			all = append(all, part)
			continue
		}
		all = append(all, strings.Fields(part)...)
	}
	return all
}

// ofTheMoment are parts of what etcdctl prints that differ from run to run.
var ofTheMoment = []blank{
	{regexp.MustCompile(`"expiration":"[^"]*","ttl":[0-9]+`), `"expiration":TIME,"ttl":N`},
	{regexp.MustCompile(`TTL: [1-9][0-9]*`), `TTL: N`},
	{regexp.MustCompile(`127\.0\.0\.1:[0-9]+->`), ``}, // of the client's end
	{regexp.MustCompile(`dial tcp 127\.0\.0\.1:[0-9]+`), `dial tcp`},
}

var aboutMembers = regexp.MustCompile(`(?m)^(member )?7b0000000000000[0-9]`)

func printedText(text string) string {
	text = without(text, ofTheMoment)
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if aboutMembers.MatchString(text) {
		slices.Sort(lines)
	}
	for i, line := range lines {
		if cluster, ok := strings.CutPrefix(line, `ETCD_INITIAL_CLUSTER="`); ok {
			lines[i] = `ETCD_INITIAL_CLUSTER="` + strings.Join(sorted(strings.Split(strings.TrimSuffix(cluster, `"`), ",")), ",") + `"`
		}
	}
	return strings.Join(lines, "\n")
}

func sorted(list []string) []string {
	slices.Sort(list)
	return list
}

// ctl runs one line on both sides and compares what it prints. What follows " < " is its input.
func (b *beside) ctl(line string) printed {
	b.t.Helper()
	c := ctl{args: line}
	if args, input, ok := strings.Cut(line, " <"); ok {
		c = ctl{args: args, input: strings.TrimSpace(input) + "\n"}
	}
	var got [2]printed
	for i, at := range b.targets() { // they are cheap, and fail the test from its own goroutine
		got[i] = c.run(b.t, at)
		got[i].stderr = without(got[i].stderr, b.forget)
	}
	if got[0] != got[1] {
		b.t.Errorf("etcdctl %s\n-- etcd\n%s-- %s\n%s", line, got[0], b.sides[1].Kind, got[1])
	}
	return got[0]
}

// TestCtl compares every command of etcdctl's v2 face on three members.
func TestCtl(t *testing.T) {
	t.Parallel()
	b := start(t, 3)
	b.lead(1)
	for _, part := range ctlScripts {
		t.Run(part.name, func(t *testing.T) { b.on(t).ctlScript(part.script) })
	}
	t.Run("watch", func(t *testing.T) { ctlWatch(b.on(t)) })
	t.Run("members", func(t *testing.T) { ctlMembers(b.on(t)) })
	t.Run("users", func(t *testing.T) {
		b := b.on(t)
		b.forget = []blank{{regexp.MustCompile(`(?m) \[[1-9][0-9]*\]$`), ` [N]`}} // indexes, see TestUsers
		b.ctlScript(ctlUsers)
	})
	t.Run("health", func(t *testing.T) { ctlHealth(b.on(t)) })
}

// settleAll waits for all members: etcdctl asks any of those that a list of members names.
func (b *beside) settleAll() {
	b.t.Helper()
	for n := 1; n <= 3; n++ {
		b.member(n).settle()
	}
}

func (b *beside) ctlScript(text string) {
	b.t.Helper()
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			b.settleAll()
			b.ctl(line)
		}
	}
}

var ctlScripts = []struct{ name, script string }{
	{"keys", `
		set /message Hello
		get /message
		get message
		set /message
		set /in < from the input
		get /in
		set
		get /nothing
		get
		set /ttl x --ttl 500
		-o extended get /ttl
		-o extended get /message
		-o json get /message
		-o extended set /message World
		-o json set /message World
		-o json get /nothing
		-o extended get /nothing
		-o simple get /message
		-o nonsense get /message
		set /message a --swap-with-value World
		set /message b --swap-with-value World
		set /message b --swap-with-index 1
		get --quorum /message
		get --sort /message
		mk /made 1
		mk /made 2
		mk --ttl 500 /made-ttl 1
		mk --in-order /queue 1
		mk --in-order /queue 2
		ls --sort /queue
		-o json mk --in-order /queue 3
		update /made 3
		update /none 3
		update --ttl 300 /made 4
		update /made
		rm /made
		rm /made
		-o json rm /in
		-o extended rm /message
		set /cas 1
		rm --with-value 2 /cas
		rm --with-index 1 /cas
		rm --with-value 1 /cas
		rm`},
	{"directories", `
		mkdir /dir
		mkdir /dir
		mkdir --ttl 500 /ttl-dir
		mkdir
		setdir /dir
		setdir /dir2
		setdir --ttl 500 /dir3
		set /dir/a 1
		set /dir/b/c 1
		set /dir/_hidden 1
		ls --sort /
		ls --sort
		ls --sort -p /
		ls --sort -r /
		ls --sort --recursive -p /dir
		ls --quorum --sort /dir
		ls /nothing
		ls /dir/a
		-o json ls --sort /dir
		-o extended ls --sort /dir
		get /dir
		-o json get /dir2
		set /dir x
		update /dir x
		rm /dir
		rm --dir /dir
		rmdir /dir
		rmdir /dir2
		rmdir /dir2
		rmdir /dir/a
		rmdir
		rm --recursive /dir
		rm -r /dir
		rm -r /queue
		updatedir /nothing --ttl 5
		updatedir
		ls --sort`},
	{"wrong ways", `
		nonsense
		--version
		--no-sync get /ttl
		--output json --no-sync get /ttl
		--debug --nonsense get /ttl
		--endpoints=http://127.0.0.1:1 get /ttl
		--endpoints=http://127.0.0.1:1 cluster-health
		--endpoints=http://127.0.0.1:1,http://client-2 get /message/none
		member
		member nonsense
		user
		role list
		role get root
		user list
		auth
		auth enable
		auth disable`},
}

// ctlUsers are what etcdctl does about users, on a cluster that has none.
const ctlUsers = `
		user add root < pw
		user add ann:pw
		user add ann:pw
		user add bob < bob
		user list
		user get ann
		user get nobody
		role add app
		role add app
		role list
		role get app
		role grant app -path /app/* -readwrite
		role grant app -path /one -read
		role grant app -path /one -read
		role grant app -path /two -write
		role revoke app -path /two -write
		role revoke app -path /two -write
		role grant app -path /x
		role grant nothing -path /x -read
		role get app
		user grant ann -roles app
		user grant ann -roles app
		user grant ann -roles none
		user revoke ann -roles none
		user get ann
		user passwd ann < other
		user passwd nobody < other
		auth enable
		role list
		user list
		role get app
		--username root:pw role get app
		--username root:pw role get guest
		--username root:wrong role list
		--username root:pw role revoke guest -path /* -readwrite
		get /ttl
		ls /
		set /app/x 1
		--username ann:pw set /app/x 1
		--username ann:other set /app/x 1
		--username ann:other get /app/x
		--username ann:other ls /app
		--username ann:other ls /
		--username ann:other get /one
		--username ann:other set /one 1
		--username ann set /app/x 2 < other
		--username ann:other user list
		--username ann:other member list
		member list
		cluster-health
		--username root:pw user revoke ann -roles app
		--username ann:other get /app/x
		--username root:pw user remove ann
		--username root:pw user remove ann
		--username root:pw user remove root
		--username root:pw role remove app
		--username root:pw role remove app
		auth disable
		--username root:pw auth disable
		get /app/x
		user remove root
		user list`

// ctlWatch runs watchers that end by themselves: with --after-index they find what is there already.
func ctlWatch(b *beside) {
	b.level()
	index := b.now()
	b.script(`
		PUT /keys/watched/a value=1
		PUT /keys/watched/b value=2
		PUT /keys/watched/a value=3
		DELETE /keys/watched/b`)
	for n := range 4 {
		if n < 2 {
			b.ctl(fmt.Sprintf("watch --after-index %d /watched/a", index+n))
		}
		b.ctl(fmt.Sprintf("watch --recursive --after-index %d /watched", index+n))
		b.ctl(fmt.Sprintf("-o extended watch --recursive --after-index %d /watched", index+n))
		b.ctl(fmt.Sprintf("-o json watch --recursive --after-index %d /watched", index+n))
	}
	// The command runs once for every event, all at the same time: there is one only.
	b.ctl(fmt.Sprintf("exec-watch --recursive --after-index %d /watched -- sh -c 'env | grep ETCD_WATCH_ | sort; kill -INT $PPID'", index+3))
	b.ctl("watch")
	b.ctl("exec-watch /watched")
}

func ctlMembers(b *beside) {
	b.ctl("member list")
	b.member(2).ctl("member list")
	b.ctl("member add")
	b.ctl("member add m4 nonsense")
	b.addMember(4, `POST /members {"peerURLs":["http://peer-4:1"]}`)
	for _, line := range []string{
		"member list",
		"member add m2 http://peer-2",
		"member update 7b00000000000004 http://peer-4:2",
		"member update 7b00000000000004 http://peer-2",
		"member update 1234 http://peer-4:3",
		"member update",
		"member list",
		"cluster-health",
		"member remove 7b00000000000004",
		"member remove 7b00000000000004",
		"member remove 1234",
		"member remove",
		"member list",
	} {
		b.settleAll()
		b.ctl(line)
	}
}

// ctlHealth asks for the cluster's health while all are well, without one follower, and without a
// majority.
func ctlHealth(b *beside) {
	b.ctl("cluster-health")
	b.kill(3)
	b.ctl("cluster-health")
	b.ctl("get /ttl")
	b.ctl("set /health degraded")
	b.ctl("member list")
	b.kill(2)
	b.agree("GET /members/leader", http.StatusServiceUnavailable)
	b.ctl("cluster-health")
	b.ctl("--no-sync get /health")
	b.ctl("--no-sync ls --sort /")
	b.run(2)
	b.run(3)
	b.lead(1)
	b.ctl("cluster-health")
	b.ctl("get --quorum /health")
}
