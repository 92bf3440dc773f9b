//go:build linux

package guide

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"limpet/e2e/hosts"
	"limpet/e2e/proc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const docs = "../../docs"

// notRun are the blocks of commands that no test runs, by document and first line: each
// with the reason.
var notRun = map[string]string{
	"getting-started.md scp token board2: && scp token board3:":                                                  "there is no sshd; the test copies the file",
	"backup.md install -m 600 -o limpet /dev/stdin /etc/limpet/s3-secret":                                        "there is no bucket; e2e/s3 does it with one",
	"backup.md scp /root/for-all.db board2: && scp /root/for-all.db board3:":                                     "there is no sshd; the test copies the file",
	"k3s.md curl -sfL https://get.k3s.io | sh -s - server":                                                       "k3s is fetched from the network; e2e/kube runs a kube-apiserver on limpet with what k3s passes",
	"k3s.md limpet k3s-config --endpoint http://127.0.0.1:2379 --out /etc/rancher/k3s/config.yaml.d/limpet.yaml": "k3s is fetched from the network; the first line runs above with other endpoints",
}

// elsewhere are documents whose commands another test runs.
var elsewhere = map[string]string{"kubernetes.md": "TestGuide in e2e/kube", "operations.md": "TestOperations in e2e/install", "backup.md": "TestBackup in e2e/install"}

// guides are the documents with commands, and how many boards they have.
var guides = map[string]int{"getting-started.md": 3, "k3s.md": 1, "schema.md": 1, "history.md": 1}

// documents are those of docs/ that have blocks of commands.
func documents(t *testing.T) map[string][]Block {
	t.Helper()
	files, err := filepath.Glob(docs + "/*.md")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]Block{}
	for _, f := range files {
		blocks, err := Blocks(f)
		if err != nil {
			t.Fatal(err)
		}
		blocks = slices.DeleteFunc(blocks, func(b Block) bool { return b.Language != "sh" })
		if len(blocks) > 0 {
			all[filepath.Base(f)] = blocks
		}
	}
	return all
}

// No command escapes: each block of commands runs, or is one of the installer's, or has
// a reason here; and each document that has some is a guide.
func TestNoCommandEscapes(t *testing.T) {
	left := map[string]bool{}
	for name := range notRun {
		left[name] = true
	}
	for doc, blocks := range documents(t) {
		boards, known := guides[doc]
		if elsewhere[doc] != "" {
			t.Logf("%s is run by %s", doc, elsewhere[doc])
			boards, known = 3, true
		}
		if !known {
			t.Errorf("%s has commands, and no test runs them", doc)
		}
		for _, b := range blocks {
			if _, err := b.Steps(); err != nil {
				t.Error(err)
			}
			name := doc + " " + b.FirstLine()
			switch {
			case b.Where == "shown" && notRun[name] == "":
				t.Errorf("%s is not run, and %q has no reason in the list", b.Name(), name)
			case b.Where == "shown":
				delete(left, name)
			case b.Where == "installed":
				t.Logf("%s is run in e2e/install: %s", b.Name(), b.FirstLine())
			case strings.HasPrefix(b.Where, "board") && boards != 3:
				t.Errorf("%s is for %s, and the guide has %d", b.Name(), b.Where, boards)
			}
		}
	}
	for name := range left {
		t.Errorf("the list of what is not run has %q, which no guide has", name)
	}
}

// command is a call of limpet in a guide: the subcommands, and what comes then.
var command = regexp.MustCompile(`(?:^|[\s(;&|])limpet ((?:[a-z][a-z0-9-]* ?)+)([^|&;\n]*)`)

// flagGiven is one of its flags.
var flagGiven = regexp.MustCompile(`(?:^|\s)--([a-z0-9-]+)`)

// reference is docs/reference.md, which the code keeps true, by command.
func reference(t *testing.T) (whole string, commands map[string]string) {
	t.Helper()
	text, err := os.ReadFile(docs + "/reference.md")
	if err != nil {
		t.Fatal(err)
	}
	commands = map[string]string{}
	for _, part := range strings.Split(string(text), "\n### limpet ")[1:] {
		name, body, _ := strings.Cut(part, "\n")
		commands[name] = body
	}
	return string(text), commands
}

// Every call of limpet in a guide, also one that is not run, has commands and flags
// that docs/reference.md has.
func TestCommandsAreInTheReference(t *testing.T) {
	_, commands := reference(t)
	calls := 0
	for doc, blocks := range documents(t) {
		if doc == "kubernetes.md" { // commands in containers, through kubectl
			continue
		}
		for _, b := range blocks {
			for _, found := range command.FindAllStringSubmatch(strings.NewReplacer("\\\n", " ", "sudo -u limpet ", "").Replace(b.Text), -1) {
				words := strings.Fields(found[1])
				used := len(words)
				for used > 0 && commands[strings.Join(words[:used], " ")] == "" {
					used--
				}
				name := strings.Join(words[:used], " ")
				calls++
				switch {
				case words[0] == "is": // systemctl start limpet, and what it prints
				case used == 0:
					t.Errorf("%s: there is no command limpet %s", b.Name(), found[1])
				case name == "etcdctl": // its own help knows
				case used < len(words) && !takesWords(commands[name], name):
					t.Errorf("%s: limpet %s takes no %v", b.Name(), name, words[used:])
				default:
					for _, f := range flagGiven.FindAllStringSubmatch(found[2], -1) {
						takes := commands[name]
						if name == "config set" { // and all of limpet server, as its section says
							takes += commands["server"]
						}
						if !strings.Contains(takes, "`--"+f[1]+"`") {
							t.Errorf("%s: limpet %s has no flag --%s", b.Name(), name, f[1])
						}
					}
				}
			}
		}
	}
	if calls < 50 {
		t.Errorf("%d calls of limpet were found, want those of all guides", calls)
	}
}

// takesWords reports whether a command's part of the reference says that it has
// arguments.
func takesWords(reference, name string) bool {
	return strings.Contains(reference, "    limpet "+name+" [flags] ")
}

// notOurs are flags of others that guides speak of.
var notOurs = []string{"keep-data", "cluster-init", "no-block"}

// Every flag that a guide speaks of is there.
func TestFlagsAreInTheReference(t *testing.T) {
	whole, _ := reference(t)
	for doc := range documents(t) {
		text, err := os.ReadFile(filepath.Join(docs, doc))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range regexp.MustCompile("`--([a-z0-9-]+)").FindAllStringSubmatch(string(text), -1) {
			if !strings.Contains(whole, "`--"+f[1]+"`") && !slices.Contains(notOurs, f[1]) {
				t.Errorf("%s speaks of a flag --%s, which no command has", doc, f[1])
			}
		}
	}
}

func TestGettingStarted(t *testing.T) { follow(t, "getting-started.md") }
func TestK3s(t *testing.T)            { follow(t, "k3s.md") }
func TestSchema(t *testing.T)         { follow(t, "schema.md") }
func TestHistory(t *testing.T)        { follow(t, "history.md") }

// follow does what a guide says, on as many machines as it has.
func follow(t *testing.T, doc string) {
	for tool, from := range map[string]string{"bash": "bash", "curl": "curl", "sqlite3": "sqlite3", "unshare": "util-linux"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("there is no %s here, which the guides need: install the Debian package %s", tool, from)
		}
	}
	t.Parallel() // they mostly wait
	net := hosts.New(t, guides[doc])
	limpet := proc.Binary(t, proc.Limpet)
	var names strings.Builder
	for i, h := range net.Hosts() {
		fmt.Fprintf(&names, "%s board%d\n", h.IP(), i+1)
	}
	boards := map[string]*machine{}
	for i, h := range net.Hosts() {
		name := fmt.Sprint("board", i+1)
		boards[name] = newMachine(t, h, name, limpet, names.String())
	}
	on := func(where string) []*machine {
		switch where {
		case "":
			return []*machine{boards["board1"]}
		case "boards":
			return []*machine{boards["board1"], boards["board2"], boards["board3"]}
		}
		return []*machine{boards[where]}
	}
	for _, b := range documents(t)[doc] {
		switch b.Where {
		case "installed":
			continue
		case "shown":
			if copied := copies.FindStringSubmatch(b.FirstLine()); copied != nil {
				copyFile(t, boards, copied[1])
			}
			continue
		}
		steps, err := b.Steps()
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range steps {
			for _, m := range on(b.Where) {
				m.do(b.File, s)
			}
		}
	}
}

// copies is a command that brings a file to the other boards.
var copies = regexp.MustCompile(`^scp (?:-p )?(\S+) board2:`)

// copyFile brings a secret file from board1 to the others.
func copyFile(t *testing.T, boards map[string]*machine, path string) {
	t.Helper()
	boards["board1"].do("copy", Step{Command: "cp " + path + " /run/guide/copied"})
	text, err := os.ReadFile(filepath.Join(boards["board1"].dir, "copied"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"board2", "board3"} {
		if err := os.WriteFile(filepath.Join(boards[name].dir, "copied"), text, 0o600); err != nil {
			t.Fatal(err)
		}
		boards[name].do("copy", Step{Command: "cp /run/guide/copied " + path + " && chmod 600 " + path})
	}
}
