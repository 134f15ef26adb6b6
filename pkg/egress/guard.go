// Package egress guards requests to URLs that come from clients. Such a
// request is made from inside the network, where it could reach what its
// client cannot: a database, a service without credentials, the metadata of
// the cloud. A Guard lets it reach the public internet, and what an operator
// allows, and nothing else.
//
// A URL is checked twice: by its text when it is accepted, and by its
// addresses at each connection. The name is resolved, every address is
// checked, and exactly a checked address is dialled, so that a name that
// means something else a moment later changes nothing.
package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"code.dny.dev/ssrf"
)

const (
	// MaxURL is the longest URL that is accepted, in bytes.
	MaxURL = 2048
	// mostAddresses bounds how many addresses of one name are tried.
	mostAddresses = 8

	connectTimeout = 5 * time.Second
	tlsTimeout     = 5 * time.Second
	maxHeaderBytes = 32 << 10
)

// azureWire answers Azure's machines with their metadata from an address that
// looks public.
var azureWire = netip.MustParsePrefix("168.63.129.16/32")

// ErrRefused is what every refusal of a Guard wraps.
var ErrRefused = errors.New("not allowed")

// Config is what an operator allows.
type Config struct {
	HTTP  bool     // http:// besides https://
	Ports []uint16 // default: 443, and 80 with HTTP; one that is 0 allows any
	// Allow are host names, addresses and CIDRs that may be reached although
	// they are not public. An allowed name may mean any address.
	Allow []string

	Resolver Resolver // default: the system's
}

// Resolver finds the addresses of a name: a *net.Resolver.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Guard decides what may be reached. It may be used by many at once.
type Guard struct {
	http     bool
	ports    []uint16 // empty: any
	hosts    []string // allowed by name
	resolver Resolver
	public   *ssrf.Guardian // for any name
	trusted  *ssrf.Guardian // for allowed names: only the port is checked
}

// New returns a guard, or says what is wrong with the configuration.
func New(cfg Config) (*Guard, error) {
	g := &Guard{http: cfg.HTTP, ports: cfg.Ports, resolver: cfg.Resolver}
	if g.resolver == nil {
		g.resolver = net.DefaultResolver
	}
	if len(g.ports) == 0 {
		g.ports = []uint16{443}
		if g.http {
			g.ports = append(g.ports, 80)
		}
	}
	if slices.Contains(g.ports, 0) {
		g.ports = nil
	}
	var v4, v6 []netip.Prefix
	for _, entry := range cfg.Allow {
		prefix, err := netip.ParsePrefix(entry)
		if addr, e := netip.ParseAddr(entry); e == nil {
			prefix, err = netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen()), nil
		}
		switch {
		case err == nil && prefix.Addr().Is4():
			v4 = append(v4, prefix)
		case err == nil:
			v6 = append(v6, prefix)
		case checkName(strings.ToLower(entry)) == "":
			g.hosts = append(g.hosts, strings.ToLower(entry))
		default:
			return nil, fmt.Errorf("%q is not a host name, an address or a CIDR such as 10.1.0.0/16", entry)
		}
	}
	limit := []ssrf.Option{ssrf.WithAnyPort()}
	if len(g.ports) > 0 {
		limit = []ssrf.Option{ssrf.WithPorts(g.ports...)}
	}
	all4, all6 := netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")
	g.public = ssrf.New(append(limit, ssrf.WithAllowedV4Prefixes(v4...), ssrf.WithAllowedV6Prefixes(v6...), ssrf.WithDeniedV4Prefixes(azureWire))...)
	g.trusted = ssrf.New(append(limit, ssrf.WithAllowedV4Prefixes(all4), ssrf.WithAllowedV6Prefixes(all6))...)
	return g, nil
}

// Check says what is wrong with a URL, as far as its text tells: "" for one
// that may be tried. Nothing is resolved. The answer does not repeat the URL,
// which may hold a token.
func (g *Guard) Check(raw string) string {
	u, err := url.Parse(raw)
	switch {
	case len(raw) > MaxURL:
		return fmt.Sprintf("is longer than %d bytes", MaxURL)
	case err != nil || u.Opaque != "" || u.Hostname() == "":
		return "is not a URL such as https://example.org/path"
	case u.Scheme == "http" && !g.http:
		return "must be https: this server calls no http URLs"
	case u.Scheme != "https" && u.Scheme != "http":
		return "must be an https URL"
	case u.User != nil:
		return "must have no user and password: callbacks are signed, and a token can stand in the path or the query"
	case u.Fragment != "":
		return "must have no fragment (#...)"
	}
	port, err := strconv.ParseUint(portOf(u), 10, 16)
	if err != nil || port == 0 {
		return "has no valid port"
	}
	if len(g.ports) > 0 && !slices.Contains(g.ports, uint16(port)) {
		return fmt.Sprintf("has port %d; this server calls %s", port, strings.Trim(strings.Join(strings.Fields(fmt.Sprint(g.ports)), ", "), "[]"))
	}
	host := u.Hostname()
	if addr, err := netip.ParseAddr(host); err == nil {
		if addr.Zone() != "" || g.guardian(host).SafeAddr(addr.Unmap()) != nil {
			return "is an address that this server does not call: only public ones, unless the operator allows others"
		}
		return ""
	}
	return checkName(strings.ToLower(host))
}

// checkName says what is wrong with the name of a host. Numbers in the
// notations of old (0x7f.1, 2130706433) are addresses for some resolvers and
// names for others, so they are neither here.
func checkName(name string) string {
	labels := strings.Split(strings.TrimSuffix(name, "."), ".")
	last := labels[len(labels)-1]
	number := last != "" && strings.Trim(last, "0123456789") == "" || strings.HasPrefix(last, "0x")
	for _, label := range labels {
		plain := strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") == ""
		if label == "" || len(label) > 63 || !plain || number || len(name) > 253 {
			return "has a host that is neither a name in ASCII (such as xn--...) nor an address in its usual form"
		}
	}
	return ""
}

func portOf(u *url.URL) string {
	switch {
	case u.Port() != "":
		return u.Port()
	case u.Scheme == "http":
		return "80"
	default:
		return "443"
	}
}

// guardian is who checks the addresses of a host.
func (g *Guard) guardian(host string) *ssrf.Guardian {
	if slices.Contains(g.hosts, strings.ToLower(host)) {
		return g.trusted
	}
	return g.public
}

// DialContext connects to host:port when every address of the host is
// allowed; otherwise the error wraps ErrRefused. It is for http.Transport.
func (g *Guard) DialContext(ctx context.Context, _, address string) (net.Conn, error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return nil, err
	}
	addresses, err := g.resolve(ctx, host)
	if err != nil {
		return nil, err
	}
	guardian := g.guardian(host)
	for _, a := range addresses {
		if a.Zone() != "" || guardian.SafeAddrPort(netip.AddrPortFrom(a, uint16(port))) != nil {
			return nil, fmt.Errorf("%w: %s means an address or a port that this server does not call", ErrRefused, host)
		}
	}
	// The guardian looks once more at what the system is about to connect to.
	dialer := net.Dialer{Timeout: connectTimeout, Control: guardian.Safe}
	for _, a := range addresses {
		var conn net.Conn
		if conn, err = dialer.DialContext(ctx, "tcp", netip.AddrPortFrom(a, uint16(port)).String()); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

func (g *Guard) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a.Unmap()}, nil
	}
	found, err := g.resolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, &net.DNSError{Err: "no address", Name: host, IsNotFound: true}
	}
	for i := range found {
		found[i] = found[i].Unmap()
	}
	return found[:min(len(found), mostAddresses)], nil
}

// Client returns an HTTP client that reaches only what the guard allows. It
// follows no redirects, uses no proxy of the environment and keeps no cookies.
// Requests bring their own time limit.
func (g *Guard) Client() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DialContext: g.DialContext, TLSHandshakeTimeout: tlsTimeout, ForceAttemptHTTP2: true, DisableCompression: true,
			MaxResponseHeaderBytes: maxHeaderBytes, MaxIdleConns: 64, MaxIdleConnsPerHost: 8, IdleConnTimeout: 30 * time.Second,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
