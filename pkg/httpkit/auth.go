package httpkit

import (
	"crypto/subtle"
	"net"
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// Token is a credential, and the name that whoever shows it is known by. Several
// tokens of one name are one client, which changes its token without a pause.
type Token struct {
	Client string // never the secret; "" when there is nobody to tell apart
	Secret string
}

// Nameless are the tokens of those whom nobody tells apart.
func Nameless(secrets []string) []Token {
	tokens := make([]Token, len(secrets))
	for i, s := range secrets {
		tokens[i].Secret = s
	}
	return tokens
}

// clientKey is where a request's client stands in its context.
const clientKey = "crucible.client"

// Client is the name of the token that the request came with, or "" where no
// credentials are needed.
func Client(c echo.Context) string {
	name, _ := c.Get(clientKey).(string)
	return name
}

func (s *Server) authenticate(next echo.HandlerFunc) echo.HandlerFunc {
	guard := http.NewCrossOriginProtection()
	return func(c echo.Context) error {
		r := c.Request()
		if len(s.opt.Tokens) == 0 {
			if !s.opt.AllowInsecure && !s.hostAllowed(r.Host) {
				return eval.Errorf(eval.KindForbidden, "host %q is not allowed; reach this server by a loopback name, or allow the host with --allowed-host", r.Host)
			}
			if err := guard.Check(r); err != nil {
				return eval.Errorf(eval.KindForbidden, "requests from web pages of other sites are refused; call this server from a program, or from its own pages")
			}
			return next(c)
		}
		path := r.URL.Path
		if path == "/livez" || path == "/readyz" || path == "/version" || s.opt.Public != nil && s.opt.Public(path) {
			return next(c)
		}
		client, known := s.clientOf(token(r))
		if !known {
			c.Response().Header().Set("WWW-Authenticate", `Bearer realm="crucible", Basic realm="crucible"`)
			return eval.Errorf(eval.KindUnauthorized, "send an API key as Authorization: Bearer KEY, as X-Api-Key: KEY, or as the password of HTTP basic authentication")
		}
		c.Set(clientKey, client)
		// Browsers send basic credentials by themselves, other sites included.
		if err := guard.Check(r); err != nil {
			return eval.Errorf(eval.KindForbidden, "requests from web pages of other sites are refused; call this server from a program, or from its own pages")
		}
		return next(c)
	}
}

func (s *Server) hostAllowed(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	if isLoopback(host) {
		return true
	}
	for _, h := range s.opt.AllowedHosts {
		if strings.EqualFold(h, host) {
			return true
		}
	}
	return false
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

func token(r *http.Request) string {
	if k := r.Header.Get("X-Api-Key"); k != "" {
		return k
	}
	if _, password, ok := r.BasicAuth(); ok {
		return password
	}
	scheme, rest, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	if ok && strings.EqualFold(scheme, "bearer") {
		return strings.TrimSpace(rest)
	}
	return ""
}

// clientOf compares with every token, in constant time for each.
func (s *Server) clientOf(got string) (client string, known bool) {
	for _, t := range s.opt.Tokens {
		if subtle.ConstantTimeCompare([]byte(t.Secret), []byte(got)) == 1 {
			client, known = t.Client, got != ""
		}
	}
	return client, known
}
