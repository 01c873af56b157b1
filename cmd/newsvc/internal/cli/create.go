package cli

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/buildinfo"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/names"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/scaffold"
)

func newCreate(g *globals) *cobra.Command {
	var o scaffold.Options
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "write a service that builds, tests, runs and registers itself",
		Long: `Create writes a service called NAME into the directory NAME: main, API, implementation, tests, configuration,
container, deployment, CI. It needs Go and nothing else; no protoc, no buf, and no network when the modules are cached.

NAME is what others call the service by: lower-case letters, digits and single dashes, at most 50 characters. All else
follows from it. blogger-user gives

  example.com/blogger-user              the module (--module)
  proto/blogger_user/v1/service.proto   the API: package blogger_user.v1, service BloggerUserService
  internal/bloggeruser                  the implementation
  BLOGGER_USER__SERVER__LISTEN=:9000    a setting by environment variable

A name that ends with -service is not doubled: user-service serves user.v1.UserService.

With --kind gateway it is an HTTP edge instead: it serves HTTP, and calls services once "newsvc add client" has said which.

In a workspace (newsvc init) the service goes to services/NAME and its API to proto/, in the workspace's module. In a
checkout of newsvc itself it becomes an example, examples/NAME, API included, in the framework's module. Anywhere else it is
a module of its own, inside another module too; "newsvc init ." makes that module a workspace instead.

Everything is written or nothing: no file that exists is touched, but for go.mod, go.sum and buf.gen.yaml of a workspace that
lack what the service needs. The project is built afterwards (--no-verify skips that).`,
		Example: `  newsvc create blogger-user
  newsvc create blogger-user --module github.com/acme/blogger-user
  newsvc create web --kind gateway
  newsvc create blogger-user --dry-run`,
		Args: func(_ *cobra.Command, args []string) error { return oneName(args) },
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := os.Getwd()
			if err != nil {
				return err
			}
			o.Name, o.Cwd, o.From, o.Progress = args[0], dir, g.dir, g.progress(cmd)
			o.FrameworkEnv = os.Getenv("NEWSVC_FRAMEWORK")
			o.Build = buildinfo.Read()
			res, err := scaffold.Create(cmd.Context(), o)
			if err != nil {
				return err
			}
			return g.created(cmd, res)
		},
	}
	cmd.Flags().StringVar(&o.Module, "module", "", "`path` of the Go module (default example.com/NAME)")
	cmd.Flags().StringVar(&o.Kind, "kind", scaffold.Service, "`what` it is: service (gRPC) or gateway (HTTP)")
	cmd.Flags().StringVar(&o.Overlay, "template", "", "`directory` with files to add, or to take the place of those of the template; *.tmpl are rendered: [[.Service]], [[.Module]], [[.Package]]")
	cmd.Flags().StringVar(&o.FrameworkFlag, "framework", "", "`version` of newsvc to require, or the directory of a checkout (default: the one this newsvc is from)")
	cmd.Flags().BoolVar(&o.DryRun, "dry-run", false, "list the files, write nothing")
	cmd.Flags().BoolVar(&o.NoVerify, "no-verify", false, "do not build the project")
	choices(cmd, "kind", scaffold.Service, scaffold.Gateway)
	cmd.SetFlagErrorFunc(g.createFlagError)
	return cmd
}

func oneName(args []string) error {
	if len(args) == 1 {
		return nil
	}
	p := &problem.Error{Exit: problem.Usage, What: "newsvc create needs the name of the service", Fix: "newsvc create blogger-user"}
	if len(args) > 1 {
		joined := strings.Join(args, " ")
		p.What = fmt.Sprintf("newsvc create takes one name, not %d: %s", len(args), joined)
		p.Fix = "newsvc create " + names.Suggest(joined)
	}
	return p
}

// createFlagError treats an unknown flag as what it may have been meant as: a name.
func (g *globals) createFlagError(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) || nearFlag(cmd, unknown) != "" {
		return g.flagError(cmd, err)
	}
	given := "--" + unknown.GetSpecifiedName()
	if short := unknown.GetSpecifiedShortnames(); short != "" {
		given = "-" + short
	}
	return &problem.Error{
		Exit: problem.Usage,
		What: fmt.Sprintf("%q is not a service name, nor a flag of newsvc create: use lower-case letters, digits and single dashes", given),
		Fix:  "newsvc create " + names.Suggest(given),
		Err:  err,
	}
}

func (g *globals) created(cmd *cobra.Command, res scaffold.Result) error {
	out := cmd.OutOrStdout()
	if g.output == "json" {
		return printJSON(cmd, res)
	}
	if res.DryRun {
		for _, f := range res.Files {
			fmt.Fprintf(out, "create %s\n", joined(res.Root, f))
		}
		for _, f := range res.Updated {
			fmt.Fprintf(out, "update %s\n", joined(res.Root, f))
		}
		return nil
	}
	test := "calls it by name through a real etcd"
	call := fmt.Sprintf("newsvc call %s Ping -d '{\"message\":\"hi\"}'", res.Name)
	if res.Kind == scaffold.Gateway {
		test = "asks it over HTTP, beside a real etcd"
		call = "curl 'localhost:8080/v1/ping?message=hi'"
	}
	fmt.Fprintf(g.progress(cmd), `%s is ready.

  cd %s
  newsvc dev                      # etcd and the service; reloads on save
  go test ./...                   # %s

and while newsvc dev runs, in another terminal:

  %s

`, res.Name, quoted(res.Dir), test, call)
	warnOfPath(cmd.Context(), g.progress(cmd))
	fmt.Fprintln(out, res.Dir)
	return nil
}

// joined is a file below a directory, as the user would type it.
func joined(dir, file string) string {
	if dir == "." {
		return "./" + file
	}
	return dir + "/" + file
}

// quoted is a path as a shell takes it.
func quoted(p string) string {
	if strings.ContainsAny(p, " \t'\"$&;()*?[]<>|`\\") {
		return "'" + strings.ReplaceAll(p, "'", `'\''`) + "'"
	}
	return p
}
