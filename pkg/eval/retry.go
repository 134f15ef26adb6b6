package eval

import (
	"math"
	"time"
)

// RetryPolicy says how often and when an evaluation runs again after the
// platform failed it. A program that fails is never run again.
type RetryPolicy struct {
	Name   string        `json:"name"`
	Tries  int           `json:"tries"`  // counted tries in all, the first included
	Base   time.Duration `json:"base"`   // before the second try
	Factor float64       `json:"factor"` // each further delay
	Cap    time.Duration `json:"cap"`    // the longest delay before jitter
	Jitter bool          `json:"jitter"` // add 0 to 25 % at random
}

// Names of the retry policies.
const (
	PolicyDefault       = "default"
	PolicyAggressive    = "aggressive"
	PolicyConservative  = "conservative"
	PolicyQuotaExceeded = "quota_exceeded"
)

// RetryPolicies is the table of policies that exist.
func RetryPolicies() []RetryPolicy {
	return []RetryPolicy{
		{PolicyDefault, 5, 2 * time.Second, 2, 300 * time.Second, true},
		{PolicyAggressive, 10, 1 * time.Second, 1.5, 600 * time.Second, true},
		{PolicyConservative, 3, 5 * time.Second, 2, 60 * time.Second, false},
		{PolicyQuotaExceeded, 10, 10 * time.Second, 1.5, 300 * time.Second, true},
	}
}

// RetryPolicyByName returns the policy; "" is the default one.
func RetryPolicyByName(name string) (RetryPolicy, bool) {
	if name == "" {
		name = PolicyDefault
	}
	for _, p := range RetryPolicies() {
		if p.Name == name {
			return p, true
		}
	}
	return RetryPolicy{}, false
}

// Delay is the time before the try after the nth failure (n from 1):
// base x factor^(n-1), at most the cap, plus up to a quarter by rnd, which
// lies in [0, 1).
func (p RetryPolicy) Delay(n int, rnd float64) time.Duration {
	d := math.Min(float64(p.Base)*math.Pow(p.Factor, float64(max(n, 1)-1)), float64(p.Cap))
	if p.Jitter {
		d *= 1 + rnd/4
	}
	return time.Duration(d)
}
