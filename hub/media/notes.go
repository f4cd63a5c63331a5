package media

// Notes are what the video partition tells the video merge: what was cut where, and
// what the output must therefore be. They travel as the job's notes, in JSON.
type Notes struct {
	Version  int               `json:"version"` // 1
	Source   string            `json:"source"`  // the input's file name
	Video    VideoTrack        `json:"video"`
	Segments []Segment         `json:"segments"` // chunk i holds segment i
	Other    *Other            `json:"other,omitempty"`
	LeftOut  []string          `json:"left_out,omitempty"` // tracks no chunk carries, each with its reason
	Warnings []string          `json:"warnings,omitempty"`
	Chapters []Chapter         `json:"chapters,omitempty"`
	Tags     map[string]string `json:"tags,omitempty"`
	Pictures []int             `json:"pictures,omitempty"` // cover pictures: track numbers in the source
}

// NotesVersion is the version of Notes that this release writes and reads.
const NotesVersion = 1

// A VideoTrack is the film track of the source. Times are seconds from the moment the
// earliest track begins.
type VideoTrack struct {
	Codec    string   `json:"codec"`
	Width    int      `json:"width"`
	Height   int      `json:"height"`
	Rotation int      `json:"rotation,omitempty"`
	TimeBase Rational `json:"time_base"`  // of every PTS in the segments
	Rate     Rational `json:"frame_rate"` // 0/0 where frames are not evenly spaced
	AvgRate  Rational `json:"average_frame_rate"`
	Frames   int64    `json:"frames"`
	Start    float64  `json:"start"`
	Duration float64  `json:"duration"`
	Decoded  bool     `json:"frames_decoded"` // counted by decoding, not by packets
}

// A Segment is one stretch of the film. Its PTS count from the film's first frame.
type Segment struct {
	Frames int64 `json:"frames"` // that are shown
	Start  int64 `json:"start"`  // PTS of the first frame shown
	Last   int64 `json:"last"`   // PTS of the last frame shown
	End    int64 `json:"end"`    // where the next segment starts
}

// Other is the last chunk: every track that is not the film, whole.
type Other struct {
	Start  float64      `json:"start"` // of its earliest track, in seconds as VideoTrack.Start
	Tracks []OtherTrack `json:"tracks"`
}

// An OtherTrack is a track of the last chunk.
type OtherTrack struct {
	Type     string  `json:"type"`
	Codec    string  `json:"codec"`
	Language string  `json:"language,omitempty"`
	Title    string  `json:"title,omitempty"`
	Start    float64 `json:"start"`
	Duration float64 `json:"duration"`
}

// Count tells how many tracks of a type the last chunk holds.
func (o *Other) Count(typ string) int {
	n := 0
	if o != nil {
		for _, t := range o.Tracks {
			if t.Type == typ {
				n++
			}
		}
	}
	return n
}
