package check

import (
	"bytes"
	"math"
	"strconv"
	"strings"
)

// maxNumber is the longest word that is read as a number.
const maxNumber = 400

// sameFloat compares two words as numbers where both are, else as text.
func sameFloat(got, want []byte, absolute, relative float64) bool {
	if bytes.Equal(got, want) {
		return true
	}
	a, okA := parseFloat(got)
	b, okB := parseFloat(want)
	switch {
	case !okA || !okB:
		return false
	case math.IsNaN(a) || math.IsNaN(b):
		return math.IsNaN(a) && math.IsNaN(b)
	case math.IsInf(a, 0) || math.IsInf(b, 0):
		return a == b
	}
	return near(a, b, absolute, relative)
}

func near(got, want, absolute, relative float64) bool {
	apart := math.Abs(got - want)
	return apart <= absolute || apart <= relative*math.Abs(want)
}

// parseFloat reads a decimal number, nan, inf or infinity, each with a sign
// and in any case. A number beyond the range of float64 is none.
func parseFloat(word []byte) (float64, bool) {
	if len(word) > maxNumber {
		return 0, false
	}
	s := string(word)
	switch name := strings.ToLower(strings.TrimLeft(s, "+-")); {
	case name == "nan" && len(s) <= len("-nan"):
		return math.NaN(), true
	case name == "inf", name == "infinity":
	case strings.Trim(s, "0123456789+-.eE") != "":
		return 0, false // hexadecimal, or with underscores: text
	}
	f, err := strconv.ParseFloat(s, 64)
	return f, err == nil
}

// decimal is a number of JSON in a form that only equal numbers share: its
// digits without zeros around them, and the power of ten of the last one.
type decimal struct {
	negative bool
	digits   string
	exponent int64
}

// parseDecimal reads a number of JSON. ok is false where the exponent is
// beyond any reason.
func parseDecimal(s string) (d decimal, ok bool) {
	s, d.negative = strings.CutPrefix(s, "-")
	if mantissa, exponent, found := cutAny(s, "eE"); found {
		n, err := strconv.ParseInt(exponent, 10, 32)
		if err != nil {
			return d, false
		}
		s, d.exponent = mantissa, n
	}
	whole, fraction, _ := strings.Cut(s, ".")
	all := strings.TrimLeft(whole+fraction, "0")
	d.digits = strings.TrimRight(all, "0")
	d.exponent += int64(len(all)-len(d.digits)) - int64(len(fraction))
	if d.digits == "" {
		return decimal{}, true
	}
	return d, true
}

func cutAny(s, chars string) (before, after string, found bool) {
	if i := strings.IndexAny(s, chars); i >= 0 {
		return s[:i], s[i+1:], true
	}
	return s, "", false
}

// sameNumber compares two numbers of JSON.
func sameNumber(got, want string, absolute, relative float64) bool {
	a, okA := parseDecimal(got)
	b, okB := parseDecimal(want)
	if got == want || okA && okB && a == b {
		return true
	}
	if absolute == 0 && relative == 0 {
		return false
	}
	x, errX := strconv.ParseFloat(got, 64)
	y, errY := strconv.ParseFloat(want, 64)
	return errX == nil && errY == nil && near(x, y, absolute, relative)
}
