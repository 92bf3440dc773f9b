package e2e

import (
	"strings"
	"testing"

	"limpet/e2e/proc"
	"limpet/e2e/side"
)

// ctlTutorial is etcd's well-known page on access control, and what people do wrong on the way. Each
// line is a command; what follows " < " is its input.
const ctlTutorial = `
auth status
auth enable
user list
role list
user add root:pw
auth enable
user get root
role get root
auth disable
--user root:pw auth disable
user add
user add root:pw
user add alice:pw
user add bob --no-password
user add carol --new-user-password=pw
user add dave --interactive=false < pw
user add eve --interactive=false <
user list
user list -w json
user list -w fields
role add app
role add app
role add
role grant-permission app readwrite /app/ --prefix=true
role grant-permission app read one
role grant-permission app write two three
role grant-permission app read z --from-key=true
role grant-permission app nonsense one
role grant-permission none read one
role grant-permission app read b a
role grant-permission app read --prefix=true ""
role get app
role get app -w json
role get app -w fields
role get none
role revoke-permission app read
role revoke-permission app z --from-key=true
role revoke-permission app --prefix=true ""
role get app
user grant-role alice app
user grant-role alice none
user grant-role none app
user get alice
user get alice --detail
user get alice -w json
user get none
auth enable
auth enable
auth status
auth status -w json
put /app/x 1
get /app/x
user list
member list
endpoint health
endpoint status
--user root:pw put /app/x 1
--user root:pw put other 1
--user root:pw auth status
--user root --password pw user list
--user root:pw endpoint health
--user root:pw endpoint status
--user root:pw endpoint hashkv
--user root:pw member list
--user root:pw alarm list
--user root:wrong put /app/x 2
--user nobody:pw put /app/x 2
--user bob:pw put /app/x 2
--user alice: put /app/x 2
--user alice:pw put /app/x 2
--user alice:pw get /app/ --prefix
--user alice:pw get /app/x -w json
--user alice:pw put other 2
--user alice:pw get other
--user alice:pw get "" --prefix
--user alice:pw get one
--user alice:pw put two 2
--user alice:pw put two 3 --prev-kv
--user alice:pw get two
--user alice:pw del /app/x --prev-kv
--user alice:pw del --range /app /app0
--user alice:pw txn < value("/app/x") = "1"
--user alice:pw lease list
--user alice:pw lease timetolive 1234 --keys
--user alice:pw lease revoke 1234
--user alice:pw lease keep-alive 1234
--user alice:pw compaction 2
--user alice:pw defrag
--user alice:pw member list
--user alice:pw member remove 1234
--user alice:pw endpoint health
--user alice:pw endpoint status
--user alice:pw endpoint hashkv
--user alice:pw alarm list
--user alice:pw alarm disarm
--user alice:pw move-leader 1234
--user alice:pw user list
--user alice:pw user get alice
--user alice:pw user get carol
--user alice:pw role get app
--user alice:pw role list
--user alice:pw user passwd alice --interactive=false < new
--user root:pw user passwd alice --interactive=false < new
--user alice:pw get /app/x
--user alice:new get /app/x
--user root:pw role revoke-permission app /app/ --prefix=true
--user alice:new get /app/x
--user root:pw user revoke-role alice app
--user root:pw user revoke-role alice app
--user root:pw user delete alice
--user alice:new get /app/x
--user root:pw role delete app
--user root:pw role delete app
--user root:pw user delete root
--user root:pw role delete root
--user root:pw user revoke-role root root
--user carol:pw auth disable
--user root:pw auth disable
--user root:pw get other
get other
auth status
`

// TestAuthCtl follows the tutorial with etcd's own client and with the one built into limpet.
func TestAuthCtl(t *testing.T) {
	t.Parallel()
	for _, binary := range []proc.Kind{proc.Etcdctl, proc.Limpet} {
		t.Run(string(binary), func(t *testing.T) {
			s := newStage(t, 1)
			for line := range strings.Lines(strings.TrimPrefix(ctlTutorial, "\n")) {
				command, input, _ := strings.Cut(strings.TrimSpace(line), " <")
				args := strings.Fields(command)
				for i, arg := range args {
					if arg == `""` {
						args[i] = ""
					}
				}
				if input = strings.TrimSpace(input); input != "" {
					input += "\n\n\n\n" // the lists of a transaction end with empty lines
				}
				s.At(1).Do(side.Ctl{T: t, Binary: binary, Args: args, Input: input})
			}
		})
	}
}
