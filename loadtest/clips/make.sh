#!/bin/sh
# Makes the clips that the simulated cameras serve. Run once; the results are committed, so that the binary and the
# tests need no ffmpeg. Needs ffmpeg with libx264 and libx265 (any version of the last years).
#
# What matters to the simulator and to the checks that use it:
#   - a fixed GOP with closed, IDR-only keyframes and no scene-cut keyframes, as surveillance cameras send;
#   - no B-frames except in the clip that is about them;
#   - real bits: a noisy, moving picture, rate-controlled with a small buffer, so that frame sizes look like a camera's;
#   - a whole number of GOPs, so that looping the clip keeps the GOP regular;
#   - audio of any length: the simulator loops it by itself, on its own clock.
set -eu
cd "$(dirname "$0")"

ff() { ffmpeg -hide_banner -loglevel error -y "$@"; }
noisy() { echo "testsrc2=size=$1:rate=25,noise=alls=$2:allf=t,format=yuv420p"; }

# The usual camera: 1080p25, 2 Mbps, keyframe every 2 s, AAC-LC mono 16 kHz.
ff -f lavfi -i "$(noisy 1920x1080 3)" -f lavfi -i "sine=frequency=440:beep_factor=4:sample_rate=16000" -t 10 \
   -c:v libx264 -preset medium -profile:v high -bf 0 -g 50 -keyint_min 50 -sc_threshold 0 \
   -b:v 1950k -maxrate 1950k -bufsize 1950k -x264-params "nal-hrd=cbr:force-cfr=1" \
   -c:a aac -ac 1 -ar 16000 -b:a 32k \
   -map_metadata -1 -fflags +bitexact -movflags +faststart h264-1080p25-2mbps-aac.mp4

# H.265, 720p25, 1 Mbps, keyframe every 2 s, no audio.
ff -f lavfi -i "$(noisy 1280x720 3)" -t 10 \
   -c:v libx265 -preset medium -tag:v hvc1 -b:v 980k \
   -x265-params "log-level=error:bframes=0:keyint=50:min-keyint=50:scenecut=0:open-gop=0:vbv-maxrate=980:vbv-bufsize=980:info=0" \
   -map_metadata -1 -fflags +bitexact -movflags +faststart h265-720p25.mp4

# Small and quick, for tests: 320x180, 150 kbps, keyframe every second, no audio.
ff -f lavfi -i "$(noisy 320x180 2)" -t 4 \
   -c:v libx264 -preset medium -profile:v main -bf 0 -g 25 -keyint_min 25 -sc_threshold 0 \
   -b:v 150k -maxrate 150k -bufsize 150k \
   -map_metadata -1 -fflags +bitexact -movflags +faststart h264-small.mp4

# B-frames: presentation order differs from decode order.
ff -f lavfi -i "$(noisy 320x180 2)" -t 4 \
   -c:v libx264 -preset medium -profile:v main -bf 2 -b_strategy 0 -g 25 -keyint_min 25 -sc_threshold 0 -flags +cgop \
   -b:v 150k -maxrate 150k -bufsize 150k \
   -map_metadata -1 -fflags +bitexact -movflags +faststart h264-bframes.mp4

# Another size than the small clip, to change to in mid-stream.
ff -f lavfi -i "$(noisy 480x270 2)" -t 4 \
   -c:v libx264 -preset medium -profile:v high -bf 0 -g 25 -keyint_min 25 -sc_threshold 0 \
   -b:v 200k -maxrate 200k -bufsize 200k \
   -map_metadata -1 -fflags +bitexact -movflags +faststart h264-wide.mp4

# One keyframe in 12 s.
ff -f lavfi -i "$(noisy 320x180 2)" -t 12 \
   -c:v libx264 -preset medium -profile:v main -bf 0 -g 300 -keyint_min 300 -sc_threshold 0 \
   -b:v 100k -maxrate 100k -bufsize 100k \
   -map_metadata -1 -fflags +bitexact -movflags +faststart h264-long-gop.mp4

# 50 pictures a second.
ff -f lavfi -i "testsrc2=size=320x180:rate=50,noise=alls=2:allf=t,format=yuv420p" -t 4 \
   -c:v libx264 -preset medium -profile:v main -bf 0 -g 50 -keyint_min 50 -sc_threshold 0 \
   -b:v 200k -maxrate 200k -bufsize 200k \
   -map_metadata -1 -fflags +bitexact -movflags +faststart h264-50fps.mp4

# H.265 with B-frames and open GOPs: its keyframes are CRA pictures, followed by pictures that are shown before them.
ff -f lavfi -i "$(noisy 320x180 2)" -t 4 \
   -c:v libx265 -preset medium -tag:v hvc1 -b:v 150k \
   -x265-params "log-level=error:bframes=2:b-adapt=0:keyint=25:min-keyint=25:scenecut=0:open-gop=1:vbv-maxrate=150:vbv-bufsize=150:info=0" \
   -map_metadata -1 -fflags +bitexact -movflags +faststart h265-open-gop.mp4

# G.711, without any container.
ff -f lavfi -i "sine=frequency=440:beep_factor=4:sample_rate=8000" -t 2 -ac 1 -f mulaw sine.ulaw
ff -f lavfi -i "sine=frequency=440:beep_factor=4:sample_rate=8000" -t 2 -ac 1 -f alaw sine.alaw
