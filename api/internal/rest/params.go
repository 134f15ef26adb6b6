package rest

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// params reads the parameters of a request and collects what is wrong. What
// is never asked for is not a parameter: err says so.
type params struct {
	values url.Values
	asked  map[string]bool
	bad    []eval.FieldError
}

func query(c echo.Context) *params {
	p := &params{asked: map[string]bool{}}
	values, err := url.ParseQuery(c.Request().URL.RawQuery)
	if err != nil {
		p.wrong("query", "cannot be read: %v", err)
	}
	p.values = values
	return p
}

func (p *params) wrong(name, format string, args ...any) {
	p.bad = append(p.bad, eval.FieldError{Field: name, Message: fmt.Sprintf(format, args...)})
}

// one returns a parameter that is given once at most.
func (p *params) one(name string) string {
	p.asked[name] = true
	all := p.values[name]
	if len(all) > 1 {
		p.wrong(name, "is given %d times; give it once", len(all))
	}
	if len(all) == 0 {
		return ""
	}
	if all[0] == "" {
		p.wrong(name, "is empty; leave it out instead")
	}
	if len(all[0]) > 512 {
		p.wrong(name, "is longer than 512 bytes")
	}
	return all[0]
}

// many returns the words of a parameter that may be repeated or hold several
// words with commas between.
func (p *params) many(name string) []string {
	p.asked[name] = true
	var all []string
	for _, v := range p.values[name] {
		all = append(all, strings.Split(v, ",")...)
	}
	if len(all) > 32 {
		p.wrong(name, "has %d values; at most 32 are accepted", len(all))
		return nil
	}
	return all
}

func (p *params) time(name string) time.Time {
	s := p.one(name)
	if s == "" {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		p.wrong(name, "%q is not a time like 2026-01-31T12:00:00Z (a + in it is written %%2B)", clip(s))
	}
	return t.UTC()
}

func (p *params) limit() int {
	s := p.one("limit")
	if s == "" {
		return 0
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > 500 {
		p.wrong("limit", "%q is not a whole number from 1 to 500", clip(s))
	}
	return n
}

// wait reads ?wait=, which is a duration such as 10s or a number of seconds.
func (p *params) wait(most time.Duration) time.Duration {
	s := p.one("wait")
	if s == "" {
		return 0
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		var seconds float64
		if seconds, err = strconv.ParseFloat(s, 64); err == nil && seconds >= 0 && seconds <= 1e6 {
			d = time.Duration(seconds * float64(time.Second))
		} else {
			p.wrong("wait", "%q is not a duration such as 10s or 1500ms", clip(s))
			return 0
		}
	}
	if d < 0 || d > most {
		p.wrong("wait", "is %s; it must be from 0 to %s", d, most)
	}
	return d
}

func (p *params) err() error {
	for _, name := range slices.Sorted(maps.Keys(p.values)) {
		if !p.asked[name] {
			known := slices.Sorted(maps.Keys(p.asked))
			if len(known) == 0 {
				p.wrong(clip(name), "is not a parameter here; there are none")
			} else {
				p.wrong(clip(name), "is not a parameter here; there are %s", strings.Join(known, ", "))
			}
		}
	}
	return eval.Invalid(p.bad[:min(len(p.bad), mostFound)])
}

// noParams refuses any parameter.
func noParams(c echo.Context) error { return query(c).err() }

// words checks each word against the ones that are valid.
func words[T ~string](p *params, name string, valid []T) []T {
	var all []T
	for _, w := range p.many(name) {
		if !slices.Contains(valid, T(w)) {
			p.wrong(name, "%q is not one of %s", clip(w), listed(valid))
			continue
		}
		all = append(all, T(w))
	}
	return all
}

func listed[T ~string](all []T) string {
	s := make([]string, len(all))
	for i, v := range all {
		s[i] = string(v)
	}
	return strings.Join(s, ", ")
}

// keyParam reads the evaluation's id from the path.
func keyParam(c echo.Context) (eval.Key, error) {
	id := c.Param("id")
	if !validID(id) {
		return eval.Key{}, eval.Invalid([]eval.FieldError{{Field: "id", Message: fmt.Sprintf("%q is not the id of an evaluation, which looks like 01890a5d-ac96-774b-bcce-b302099a8057", clip(id))}})
	}
	return keyOf(eval.ID(id)), nil
}

// onlyKey is keyParam where no query is taken.
func onlyKey(c echo.Context) (eval.Key, error) {
	key, err := keyParam(c)
	if err != nil {
		return eval.Key{}, err
	}
	return key, noParams(c)
}

func keyOf(id eval.ID) eval.Key { return eval.Key{Project: eval.DefaultProject, ID: id} }

func validID(id string) bool {
	u, err := uuid.Parse(id)
	return err == nil && u.String() == id
}
