package egress_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/crucible-eval/crucible/pkg/egress"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func guard(t testing.TB, cfg egress.Config) *egress.Guard {
	t.Helper()
	g, err := egress.New(cfg)
	require.NoError(t, err)
	return g
}

// private is every way of writing an address that is not public.
var private = []string{
	"127.0.0.1", "127.8.9.10", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
	"169.254.169.254", "100.64.0.1", "100.100.100.200", "192.0.0.192", "198.18.0.1", "192.0.2.1", "224.0.0.1",
	"240.0.0.1", "255.255.255.255", "168.63.129.16",
	"[::1]", "[::]", "[fe80::1]", "[fe80::1%25eth0]", "[fc00::1]", "[fd00:ec2::254]", "[ff02::1]", "[fec0::1]",
	"[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::ffff:10.0.0.1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[64:ff9b::169.254.169.254]",
	"[64:ff9b:1::a00:1]", "[2002:7f00:1::]", "[2002:a9fe:a9fe::1]", "[2001:0:7f00:1::1]", "[2001:db8::1]", "[2606:4700::1%25lo]",
}

// odd is what some resolvers take for an address.
var odd = []string{
	"2130706433", "0x7f000001", "0x7f.1", "017700000001", "0177.0.0.1", "127.1", "127.0.1", "127.0.0.1.", "0", "1", "0xA9.0xFE.0xA9.0xFE",
	"１２７.0.0.1", "127。0。0。1", "①②⑦.0.0.1", "ｌocalhost", "exa mple.org", "a..b", "-", "[::1", "[v1.x]",
}

func TestCheckRefusesWhatIsNotPublic(t *testing.T) {
	g := guard(t, egress.Config{HTTP: true, Ports: []uint16{0}})
	for _, host := range private {
		require.NotEmpty(t, g.Check("https://"+host+"/x"), host)
		require.NotEmpty(t, g.Check("http://"+host+":8080/x"), host)
	}
	for _, host := range odd {
		if host == "-" {
			continue // a name, if a strange one: the resolver will say
		}
		require.NotEmpty(t, g.Check("https://"+host+"/x"), host)
	}
	for _, good := range []string{
		"https://example.org", "https://EXAMPLE.org/a/b?token=1", "https://8.8.8.8/", "https://[2606:4700::1111]/", "https://xn--bcher-kva.example:8443/",
		"http://a_b.example./", "https://[::ffff:8.8.8.8]/", "https://localhost/", // a name: its address is checked when it is called
	} {
		require.Empty(t, g.Check(good), good)
	}
}

func TestCheckSaysWhatIsWrong(t *testing.T) {
	https := guard(t, egress.Config{})
	for raw, want := range map[string]string{
		"http://example.org/":                              "must be https",
		"ftp://example.org/":                               "must be an https URL",
		"file:///etc/passwd":                               "is not a URL",
		"gopher://example.org/":                            "must be an https URL",
		"https:///x":                                       "is not a URL",
		"https:example.org":                                "is not a URL",
		"//example.org/":                                   "must be an https URL",
		"example.org":                                      "is not a URL",
		"https://user:secret@example.org/":                 "no user and password",
		"https://user@example.org/":                        "no user and password",
		"https://example.org/#x":                           "no fragment",
		"https://example.org:0/":                           "no valid port",
		"https://example.org:99999/":                       "no valid port",
		"https://example.org:22/":                          "has port 22; this server calls 443",
		"https://example.org\r\nX: y/":                     "is not a URL",
		"https://" + strings.Repeat("a", 3000):             "is longer than 2048 bytes",
		"https://" + strings.Repeat("a.", 200) + "example": "neither a name",
	} {
		require.Contains(t, https.Check(raw), want, raw)
	}
	require.Empty(t, https.Check("https://example.org:443/"))
	require.Contains(t, guard(t, egress.Config{HTTP: true}).Check("http://example.org:8080/"), "this server calls 443, 80")
	require.Empty(t, guard(t, egress.Config{Ports: []uint16{8443}}).Check("https://example.org:8443/"))
}

func TestTheOperatorMayAllowMore(t *testing.T) {
	g := guard(t, egress.Config{Allow: []string{"10.1.0.0/16", "127.0.0.1", "fd00::/8", "Hooks.internal"}})
	for raw, allowed := range map[string]bool{
		"https://10.1.2.3/": true, "https://10.2.0.1/": false, "https://127.0.0.1/": true, "https://127.0.0.2/": false,
		"https://[::ffff:10.1.2.3]/": true, "https://[fd12::1]/": true, "https://[fe80::1]/": false, "https://hooks.internal/": true,
	} {
		require.Equal(t, allowed, g.Check(raw) == "", raw)
	}
	for _, wrong := range []string{"", "10.0.0.0/33", "http://x", "a b", "0x7f.1"} {
		_, err := egress.New(egress.Config{Allow: []string{wrong}})
		require.ErrorContains(t, err, "is not a host name, an address or a CIDR", wrong)
	}
}

// resolver answers each look-up with the next of its answers, and the last one for ever.
type resolver struct {
	answers [][]string
	asked   atomic.Int32
}

func (r *resolver) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	n := int(r.asked.Add(1)) - 1
	if len(r.answers) == 0 {
		return nil, &net.DNSError{Err: "no such host", IsNotFound: true}
	}
	var found []netip.Addr
	for _, a := range r.answers[min(n, len(r.answers)-1)] {
		found = append(found, netip.MustParseAddr(a))
	}
	return found, nil
}

// receiver counts who comes, on loopback.
func receiver(t *testing.T) (port string, visits *atomic.Int32) {
	visits = &atomic.Int32{}
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { visits.Add(1) }))
	t.Cleanup(s.Close)
	_, port, err := net.SplitHostPort(s.Listener.Addr().String())
	require.NoError(t, err)
	return port, visits
}

func get(t *testing.T, g *egress.Guard, url string) error {
	t.Helper()
	c := g.Client()
	defer c.CloseIdleConnections()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	require.NoError(t, err)
	resp, err := c.Do(r)
	if err == nil {
		require.NoError(t, resp.Body.Close())
	}
	return err
}

func TestNoNotationReachesLoopback(t *testing.T) {
	port, visits := receiver(t)
	g := guard(t, egress.Config{HTTP: true, Ports: []uint16{0}, Resolver: &resolver{answers: [][]string{{"127.0.0.1"}}}})
	for _, host := range append([]string{"localhost", "rebind.example"}, append(private, odd...)...) {
		r, err := http.NewRequest(http.MethodGet, "http://"+host+":"+port+"/", nil)
		if err != nil {
			continue // Go's own parser refuses it
		}
		c := g.Client()
		resp, err := c.Do(r)
		if err == nil {
			_ = resp.Body.Close()
		}
		c.CloseIdleConnections()
		require.Error(t, err, host)
	}
	require.Zero(t, visits.Load())
}

func TestANameThatChangesItsMeaningReachesNothing(t *testing.T) {
	port, visits := receiver(t)
	for name, r := range map[string]*resolver{
		"loopback":                        {answers: [][]string{{"127.0.0.1"}}},
		"public and loopback":             {answers: [][]string{{"198.51.100.1", "127.0.0.1"}, {"8.8.8.8", "127.0.0.1"}}},
		"loopback, mapped":                {answers: [][]string{{"::ffff:127.0.0.1"}}},
		"metadata":                        {answers: [][]string{{"169.254.169.254"}}},
		"many public ones, then loopback": {answers: [][]string{{"8.8.8.8", "8.8.4.4", "127.0.0.1"}}},
	} {
		g := guard(t, egress.Config{HTTP: true, Ports: []uint16{0}, Resolver: r})
		err := get(t, g, "http://rebind.example:"+port+"/")
		require.ErrorIs(t, err, egress.ErrRefused, name)
		require.NotContains(t, err.Error(), "127.0.0.1", "the answer must not tell what a name means inside: %s", name)
		require.EqualValues(t, 1, r.asked.Load(), "%s: what was checked is what is dialled, without asking again", name)
	}
	require.Zero(t, visits.Load())
}

func TestWhatIsDialledIsWhatWasChecked(t *testing.T) {
	port, visits := receiver(t)
	// The first answer is allowed and is dialled; a second look-up would be somewhere else.
	r := &resolver{answers: [][]string{{"127.0.0.1"}, {"127.0.0.2"}}}
	g := guard(t, egress.Config{HTTP: true, Ports: []uint16{0}, Allow: []string{"127.0.0.1"}, Resolver: r})
	require.NoError(t, get(t, g, "http://rebind.example:"+port+"/"))
	require.EqualValues(t, 1, r.asked.Load())
	require.ErrorIs(t, get(t, g, "http://rebind.example:"+port+"/"), egress.ErrRefused)
	require.EqualValues(t, 1, visits.Load())
}

func TestAnAllowedNameMayMeanAnything(t *testing.T) {
	port, visits := receiver(t)
	g := guard(t, egress.Config{HTTP: true, Ports: []uint16{0}, Allow: []string{"hooks.internal"}, Resolver: &resolver{answers: [][]string{{"127.0.0.1"}}}})
	require.NoError(t, get(t, g, "http://Hooks.internal:"+port+"/"))
	require.ErrorIs(t, get(t, g, "http://other.internal:"+port+"/"), egress.ErrRefused)
	require.EqualValues(t, 1, visits.Load())
}

func TestThePortIsCheckedAtTheConnectionToo(t *testing.T) {
	port, visits := receiver(t)
	g := guard(t, egress.Config{HTTP: true, Allow: []string{"127.0.0.1"}})
	require.ErrorIs(t, get(t, g, "http://127.0.0.1:"+port+"/"), egress.ErrRefused)
	require.Zero(t, visits.Load())
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	port, visits := receiver(t)
	s := httptest.NewServer(http.RedirectHandler("http://127.0.0.1:"+port+"/", http.StatusTemporaryRedirect))
	t.Cleanup(s.Close)
	c := guard(t, egress.Config{HTTP: true, Ports: []uint16{0}, Allow: []string{"127.0.0.1"}}).Client()
	defer c.CloseIdleConnections()
	resp, err := c.Post(s.URL, "application/json", strings.NewReader("{}"))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusTemporaryRedirect, resp.StatusCode)
	require.Zero(t, visits.Load())
}

func TestAProxyOfTheEnvironmentIsNotUsed(t *testing.T) {
	port, visits := receiver(t)
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:"+port)
	t.Setenv("http_proxy", "http://127.0.0.1:"+port)
	err := get(t, guard(t, egress.Config{HTTP: true, Resolver: &resolver{}}), "http://example.org/")
	_, dns := errors.AsType[*net.DNSError](err)
	require.True(t, dns, "%v", err)
	require.Zero(t, visits.Load())
}

func FuzzCheck(f *testing.F) {
	for _, host := range append(private, odd...) {
		f.Add("https://" + host + "/")
	}
	g, err := egress.New(egress.Config{Ports: []uint16{0}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		if g.Check(raw) != "" {
			return
		}
		// What passes and is an address is a public one for Go's own eyes too.
		r, err := http.NewRequest(http.MethodPost, raw, nil)
		require.NoError(t, err)
		if a, err := netip.ParseAddr(r.URL.Hostname()); err == nil {
			a = a.Unmap()
			require.False(t, a.IsLoopback() || a.IsPrivate() || a.IsLinkLocalUnicast() || a.IsUnspecified() || a.IsMulticast(), raw)
		}
	})
}
