package cli

import "github.com/spf13/cobra"

// topics are the texts of "newsvc help TOPIC". What is true of all commands is said here once.
func topics() []*cobra.Command {
	return []*cobra.Command{
		{Use: "exit-codes", Short: "what the exit codes mean", Long: exitCodes},
		{Use: "names", Short: "what a service may be called, and what follows from its name", Long: namesTopic},
		{Use: "config", Short: "where the settings of a service come from, and how to see them", Long: configTopic},
		{Use: "files", Short: "the files of a project: which are yours, which are written again", Long: filesTopic},
	}
}

const exitCodes = `Exit codes of newsvc:

    0  done, or nothing to do
    1  it was tried and failed: a build error, a full disk, calls that a stop had to cut
    2  wrong usage: a flag, a name, an argument; nothing was tried
    3  the environment is not fit: no go command, no network, etcd unreachable
    4  a person has to decide: the directory exists, a file is not ours to change; also what doctor,
       why and every --check have found
    5  not found: no such service, instance or method
 64+N  newsvc call: the call was tried and ended with gRPC code N, 69 is NotFound, 78 Unavailable
  130  ended by Ctrl-C; 143 by SIGTERM. newsvc dev ends with 0 at the first signal when all work was
       finished, and with these at the second

An error goes to stderr: what went wrong, where, and one command or edit that helps.

  newsvc: 2 generated files are out of date
     at: proto/blogger_user/v1/service.pb.go, proto/blogger_user/v1/service_grpc.pb.go
    fix: newsvc generate

With -o json it is {"error":{"what":"...","at":"...","fix":"...","exit":4}}, one line on stderr.`

const namesTopic = `A service has one name; all else follows from it. It is what others call the service by, its key
in etcd, its directory, its DNS label and its image.

Lower-case letters, digits and single dashes, beginning with a letter, at most 50 characters. Not
allowed are internal, vendor and testdata, which the go command treats specially, v2 and the like,
which end a module path, names of Windows devices such as con and com1, and newsvc.

                              blogger-user                      user-service
  proto package               blogger_user.v1                   user.v1
  proto file                  proto/blogger_user/v1/*.proto     proto/user/v1/*.proto
  proto service               BloggerUserService                UserService
  Go package of the stubs     bloggeruserv1                     userv1
  directory of the code       internal/bloggeruser              internal/user
  section of config.yaml      blogger_user                      user
  environment variables       BLOGGER_USER__SERVER__LISTEN      USER_SERVICE__SERVER__LISTEN
  key in etcd                 /newsvc/default/blogger-user/...  /newsvc/default/user-service/...

A trailing -service is not doubled, so user and user-service would share one proto package: a
workspace has one of them. A section that the framework keeps for itself gets the suffix _service: a
service auth is configured under auth_service. Names of Go's own get the suffix svc: the code of a
service type is in internal/typesvc.

  newsvc create blogger-user --dry-run      # what would be written`

const configTopic = `A service reads its settings from these places; later ones win:

  1. the defaults, in code
  2. config.yaml in its working directory, or the file of --config or NEWSVC_CONFIG
  3. config.<env>.yaml, with --env <env> or NEWSVC_ENV; newsvc dev takes config.dev.yaml if there
  4. keys below a prefix in etcd, if app.config_prefix says so
  5. environment variables: BLOGGER_USER__SERVER__LISTEN=:9000 is server.listen of blogger-user
  6. flags: --set server.listen=:9000

An unknown key, or a value of the wrong type, stops the start, with file and line. The sections app,
log, telemetry, admin, etcd, discovery, registration, server, http, clients, auth and gateway are the
framework's; the others are those that main.go names with app.Config.

  go run . --help                                        # every key, its meaning and its default
  NEWSVC_INTROSPECT=config go run .                      # what is in force, and where it was set
  curl -s localhost:9001/debug/config                    # the same of a process that runs
  BLOGGER_USER__LOG__LEVEL=debug newsvc dev              # for one run

Which etcd the tool itself talks to, for ls, call, why and doctor: --etcd, else NEWSVC_ETCD, else,
inside a service, with --env prod what its config.yaml and config.prod.yaml say of etcd and
discovery, else the newsvc dev that runs this service, else the service's own config, else the only
newsvc dev on this machine, else 127.0.0.1:2379.`

const filesTopic = `What newsvc create writes is yours to change, with few exceptions. Commit all of it.

  main.go                     wiring: one line per callee, section and server
  internal/<name>/            what the service does; imports neither the framework nor Fx
  proto/<name>/v1/*.proto     the API
  proto/<name>/v1/*.pb.go     written by newsvc generate: what says DO NOT EDIT is written again, a
                              file without that line is left alone (exit 4)
  config.yaml                 settings of the service: newsvc help config
  newsvc.yaml                 settings of this tool; marks the directory as a service
  e2e_test.go                 starts the service beside a real etcd and calls it by name
  Dockerfile, deploy/, .github/workflows/, .golangci.yml, buf.yaml, buf.gen.yaml
  .newsvc/template.json       which template wrote the project, with the checksum of each file
  .newsvc/base.txtar          what it wrote, so that later templates can be merged with your changes
  .newsvc/                    all else in it is scratch: ignored by git, and safe to delete

No command deletes a file that it did not write. What is yours is changed by three only: add rpc
(the .proto file), add client (the marked list in main.go, config.yaml, buf.gen.yaml when a proto
comes from elsewhere) and, in a workspace, create (go.mod and go.sum).

  newsvc create blogger-user --dry-run      # the list, nothing is written
  newsvc generate --check                   # exit 4 when generated files are out of date`
