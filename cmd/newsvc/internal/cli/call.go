package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/call"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/locate"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/registryview"
	"github.com/newsvc/newsvc/framework/discovery"
)

// callOptions are the flags of newsvc call.
type callOptions struct {
	where    locate.Flags
	data     string
	headers  []string
	addr     string
	instance string
	all      bool
	timeout  time.Duration
	verbose  bool
	protoDir string
	defaults bool

	g      *globals
	callee string
	method string
	dir    string
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
	timed  bool // --timeout was given
	known  []*discovery.Instance
}

// callTimeout is twice what services give their own calls by default: where the callee waits in vain for another service, its
// answer says so before this command gives up.
const callTimeout = 10 * time.Second

func newCall(g *globals) *cobra.Command {
	o := callOptions{g: g}
	cmd := &cobra.Command{
		Use:         "call SERVICE METHOD",
		Short:       "call a method of a service by name",
		Annotations: map[string]string{waits: "no answer yet; how long to wait is --timeout"},
		Long: `Call finds an instance of SERVICE as services do, with the framework's own resolver and balancer, and calls METHOD with
the JSON of -d. METHOD is Ping, or Service/Ping, or blogger_user.v1.BloggerUserService/Ping. The reply is one line of JSON
on stdout; of a stream, one line for each message. Several JSON documents in -d are the messages of a client stream.

The shape of messages comes from the server's reflection, which is on under newsvc dev, else from the protos of the project
around the current directory, or from --proto DIR. In the directory of a service its own settings hold: etcd, discovery, and
clients.SERVICE with its TLS.

A call that fails prints nothing on stdout and ends with exit code 64 + N, where N is the code of gRPC; 5 means that there is
no such service or method.`,
		Example: `  newsvc call blogger-user Ping -d '{"message":"hi"}'
  newsvc call blogger-user Ping -d @request.json -H 'authorization: Bearer TOKEN' -v
  newsvc call blogger-user Ping --all
  cat messages.json | newsvc call blogger-user Upload -d @-`,
		Args: callArgs,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			o.callee, o.method = args[0], args[1]
			o.stdin, o.stdout, o.stderr = cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
			o.timed = cmd.Flags().Changed("timeout")
			if o.dir, err = os.Getwd(); err != nil {
				return err
			}
			return o.run(cmd.Context())
		},
	}
	f := cmd.Flags()
	o.where.Add(f)
	f.StringVarP(&o.data, "data", "d", "", "the request: `JSON`, @FILE, or @- for stdin (default: an empty message)")
	f.StringArrayVarP(&o.headers, "header", "H", nil, "metadata to send, '`NAME: VALUE`'; may be repeated")
	f.StringVar(&o.addr, "addr", "", "call the instance at this `host:port`, whether it is registered or not")
	f.StringVar(&o.instance, "instance", "", "call this instance: the beginning of its `name`, as newsvc ls shows it, or its address")
	f.BoolVar(&o.all, "all", false, "one call for each instance; finds the one that answers otherwise")
	f.DurationVar(&o.timeout, "timeout", callTimeout, "how long to wait; without the flag streams may take longer, once they have begun")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "show the instance, headers, trailers, the trace id and the time on stderr")
	f.StringVar(&o.protoDir, "proto", "", "take the shape of messages from the .proto files in this `directory`")
	f.BoolVar(&o.defaults, "emit-defaults", false, "replies hold the fields that are not set, too")
	cmd.ValidArgsFunction = completeCall(&o.where)
	return cmd
}

func callArgs(cmd *cobra.Command, args []string) error {
	p := &problem.Error{Exit: problem.Usage, Fix: `newsvc call blogger-user Ping -d '{"message":"hi"}'`}
	switch {
	case len(args) == 0:
		p.What = "newsvc call needs a service and a method"
	case len(args) == 1:
		p.What = "newsvc call needs a method of " + args[0]
		p.Fix = "newsvc call " + quote(args[0]) + " Ping"
	case len(args) > 2:
		p.What = fmt.Sprintf("newsvc call takes a service and a method, and no more words: %s", strings.Join(args[2:], " "))
		p.Fix = fmt.Sprintf("newsvc call %s %s -d %s", quote(args[0]), quote(args[1]), quote(args[2]))
	default:
		if err := discovery.CheckService(args[0]); err != nil {
			return &problem.Error{Exit: problem.Usage, What: err.Error(), Fix: "newsvc ls      shows which services there are", Err: err}
		}
		return nil
	}
	return p
}

func (o *callOptions) run(ctx context.Context) error {
	if err := o.check(); err != nil {
		return err
	}
	place, err := o.where.Find(ctx, o.dir)
	if err != nil {
		return err
	}
	if o.addr == "" {
		if err := o.lookUp(ctx, place); err != nil {
			return err
		}
	}
	switch {
	case o.all:
		return o.callAll(ctx, place)
	case o.instance != "":
		one, err := call.One(o.callee, o.instance, o.known)
		if err != nil {
			return err
		}
		o.addr = one.Addr
	}
	return o.callOne(ctx, place, o.addr, o.print)
}

// check refuses flags that contradict each other.
func (o *callOptions) check() error {
	if err := checkTimeout(o.timeout); err != nil {
		return err
	}
	given := 0
	for _, is := range []bool{o.addr != "", o.instance != "", o.all} {
		if is {
			given++
		}
	}
	if given > 1 {
		return &problem.Error{Exit: problem.Usage, What: "--addr, --instance and --all exclude each other", Fix: "keep one of them"}
	}
	if o.all && o.data == "@-" {
		return &problem.Error{Exit: problem.Usage, What: "-d @- can be read once only, and --all makes several calls", Fix: "-d @FILE"}
	}
	if o.addr != "" {
		if err := discovery.CheckAddr(o.addr); err != nil {
			return &problem.Error{Exit: problem.Usage, What: "--addr: " + err.Error(), Fix: "--addr 127.0.0.1:9000", Err: err}
		}
	}
	for _, h := range o.headers {
		if name, _, ok := strings.Cut(h, ":"); !ok || strings.TrimSpace(name) == "" {
			return &problem.Error{Exit: problem.Usage, What: fmt.Sprintf("-H %q is no header", h), Fix: "-H 'name: value'"}
		}
	}
	return nil
}

// lookUp asks the registry for the instances.
func (o *callOptions) lookUp(ctx context.Context, place locate.Place) error {
	reg, err := registryview.Open(place)
	if err != nil {
		return err
	}
	defer reg.Close()
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	if o.known, err = reg.Instances(ctx, o.callee); err != nil {
		return err
	}
	if len(o.known) == 0 {
		return reg.Unknown(ctx, o.callee, "newsvc call "+o.callee+" "+quote(o.method))
	}
	return nil
}

func (o *callOptions) metadata() metadata.MD {
	md := metadata.MD{}
	for _, h := range o.headers {
		name, value, _ := strings.Cut(h, ":")
		md.Append(strings.ToLower(strings.TrimSpace(name)), strings.TrimSpace(value))
	}
	return md
}

// callOne makes one call to the instance at addr, or by name when that is empty.
func (o *callOptions) callOne(ctx context.Context, place locate.Place, addr string, show func([]byte) error) (err error) {
	caller, err := call.Open(ctx, place, o.callee, call.Options{Addr: addr})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, caller.Close()) }()
	short, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	if len(o.headers) > 0 {
		short = metadata.NewOutgoingContext(short, o.metadata())
	}
	methods, err := caller.Learn(short, o.protoDir, o.dir)
	if err != nil {
		return err
	}
	method, err := methods.Find(o.callee, o.method, "newsvc call "+o.callee)
	if err != nil {
		return err
	}
	req := call.Request{Method: method, Metadata: o.metadata(), Reply: func(msg proto.Message) error {
		line, err := call.JSON(msg, methods.Types(), o.defaults)
		if err != nil {
			return err
		}
		return show(line)
	}}
	if o.data != "" {
		if req.Documents, err = call.Data(o.data, o.stdin, methods); err != nil {
			return err
		}
		defer req.Documents.Close()
	}
	within := ctx
	if o.timed || !method.IsStreamingClient() && !method.IsStreamingServer() {
		within = short
	}
	out, err := call.Do(within, caller.Conn, req)
	if err != nil {
		return err
	}
	o.tell(caller, out)
	return o.failed(caller, out)
}

// print writes a reply.
func (o *callOptions) print(line []byte) error {
	_, err := fmt.Fprintf(o.stdout, "%s\n", line)
	return err
}

// callAll makes one call to each instance, one after the other. The first that fails decides the exit code.
func (o *callOptions) callAll(ctx context.Context, place locate.Place) error {
	length := registryview.ShortLength(registryview.Rows(o.known))
	var first error
	for _, i := range o.known {
		err := o.callOne(ctx, place, i.Addr, func(line []byte) error {
			if o.g.output == "json" {
				return json.NewEncoder(o.stdout).Encode(map[string]any{"instance": i.Incarnation, "address": i.Addr, "reply": json.RawMessage(line)})
			}
			_, err := fmt.Fprintf(o.stdout, "%s  %s\n", call.Label(i, length), line)
			return err
		})
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil {
			continue
		}
		switch { // the last words of newsvc are about the first one
		case first == nil:
			first = err
		case o.g.output == "json":
			problem.PrintJSON(o.stderr, err)
		default:
			problem.Print(o.stderr, err)
		}
	}
	return first
}

// instance is how the instance at an address is called; the address alone when it is not known.
func (o *callOptions) label(addr string) string {
	at := slices.IndexFunc(o.known, func(i *discovery.Instance) bool { return i.Addr == addr })
	if at < 0 {
		return addr
	}
	return call.Label(o.known[at], registryview.ShortLength(registryview.Rows(o.known)))
}

// tell shows with -v how the call went.
func (o *callOptions) tell(c *call.Caller, out call.Outcome) {
	if !o.verbose {
		return
	}
	ready := 0
	for _, e := range c.Conn.Endpoints() {
		if e.Connectivity == "READY" {
			ready++
		}
	}
	fmt.Fprintf(o.stderr, "> %s -> %s (%s, %d ready)   trace %s\n", o.callee, orNobody(o.label(out.Peer)), c.Conn.State().Policy.Balancer, ready, out.Trace)
	showMetadata(o.stderr, "> ", o.metadata())
	showMetadata(o.stderr, "< ", out.Header)
	showMetadata(o.stderr, "< ", out.Trailer)
	fmt.Fprintf(o.stderr, "< %s %s\n", took(out.Took), out.Status.Code())
}

func orNobody(addr string) string {
	if addr == "" {
		return "nobody"
	}
	return addr
}

func showMetadata(w io.Writer, mark string, md metadata.MD) {
	names := make([]string, 0, len(md))
	for name := range md {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		for _, value := range md[name] {
			if strings.HasSuffix(name, "-bin") || name == "authorization" {
				value = fmt.Sprintf("(%d bytes)", len(value))
			}
			fmt.Fprintf(w, "%s%s: %s\n", mark, name, value)
		}
	}
}

func took(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000) }

// failed is the error of a call that ended with another code than OK.
func (o *callOptions) failed(c *call.Caller, out call.Outcome) error {
	code := out.Status.Code()
	if code == codes.OK {
		return nil
	}
	if out.Peer == "" {
		if p := c.Unreachable(out.Status.Err()); p != nil {
			return p
		}
	}
	p := &problem.Error{
		Exit: call.Exit(code), What: fmt.Sprintf("%s %s: %s: %s", o.callee, o.method, code, out.Status.Message()),
		At: fmt.Sprintf("%s, trace %s", took(out.Took), out.Trace), Err: out.Status.Err(),
	}
	if out.Peer != "" {
		p.At = "instance " + o.label(out.Peer) + ", " + p.At
	}
	why := "newsvc why " + o.callee + o.where.Args()
	if m := nobodyThere.FindStringSubmatch(out.Status.Message()); m != nil && m[1] != o.callee { // the callee called somebody
		p.Fix = "newsvc why " + m[1] + " --from " + o.callee + o.where.Args()
		return p
	}
	switch code { //nolint:exhaustive // for the others nothing is known to help
	case codes.Unauthenticated:
		p.Fix = "-H 'authorization: Bearer TOKEN'"
	case codes.DeadlineExceeded:
		p.Fix = fmt.Sprintf("--timeout %s, or ask what callers see: %s", 4*o.timeout, why)
	case codes.Unavailable:
		p.Fix = why
	}
	return p
}

// nobodyThere is how a service says that one that it calls has nobody to answer.
var nobodyThere = regexp.MustCompile(`no instance of "([a-z0-9-]+)" takes calls`)
