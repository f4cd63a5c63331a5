package media

import (
	"encoding/json"
	"fmt"
	"math/big"
	"strconv"
	"strings"
)

// A Rational is a fraction as ffmpeg writes it: "30000/1001", "1/90000". The zero value
// and anything over 0 mean unknown.
type Rational struct{ Num, Den int64 }

// ParseRational reads "30000/1001", "16:9" or "25".
func ParseRational(s string) (Rational, error) {
	num, den, ok := strings.Cut(strings.Replace(s, ":", "/", 1), "/")
	if !ok {
		den = "1"
	}
	n, err := strconv.ParseInt(num, 10, 64)
	if err != nil {
		return Rational{}, fmt.Errorf("fraction %.40q: want something like 30000/1001", s)
	}
	d, err := strconv.ParseInt(den, 10, 64)
	if err != nil || d < 0 {
		return Rational{}, fmt.Errorf("fraction %.40q: want something like 30000/1001", s)
	}
	return Rational{n, d}, nil
}

// Known reports whether r is a positive number.
func (r Rational) Known() bool { return r.Num > 0 && r.Den > 0 }

// Float is r as a number, 0 if unknown.
func (r Rational) Float() float64 {
	if r.Den == 0 {
		return 0
	}
	return float64(r.Num) / float64(r.Den)
}

func (r Rational) String() string { return fmt.Sprintf("%d/%d", r.Num, r.Den) }

// Seconds is ticks of a time base as seconds.
func (r Rational) Seconds(ticks int64) float64 { return float64(ticks) * r.Float() }

// Micros is ticks of a time base in microseconds, rounded to the nearest.
func (r Rational) Micros(ticks int64) int64 { return r.Rescale(ticks, Rational{1, 1_000_000}) }

// Rescale gives ticks of time base r in ticks of to, rounded to the nearest. It does not
// overflow for any time that a media file can name.
func (r Rational) Rescale(ticks int64, to Rational) int64 {
	if r.Den == 0 || to.Num == 0 {
		return 0
	}
	num := big.NewInt(ticks)
	num.Mul(num, big.NewInt(r.Num))
	num.Mul(num, big.NewInt(to.Den))
	den := big.NewInt(r.Den)
	den.Mul(den, big.NewInt(to.Num))
	// floor((2*num+den)/(2*den)) rounds half up, also below zero.
	num.Lsh(num, 1).Add(num, den)
	den.Lsh(den, 1)
	return new(big.Int).Div(num, den).Int64()
}

// MarshalJSON writes "30000/1001".
func (r Rational) MarshalJSON() ([]byte, error) { return json.Marshal(r.String()) }

// UnmarshalJSON reads what MarshalJSON wrote.
func (r *Rational) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	v, err := ParseRational(s)
	if err != nil {
		return err
	}
	*r = v
	return nil
}
