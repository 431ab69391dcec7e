//! A camera that plays: 25 pictures and one keyframe a second, each with its number in it, to whoever asks; and that
//! remembers who asked, for how long, and what was sent.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

/// Of the pictures; and a keyframe after so many.
const PICTURE_EVERY: Duration = Duration::from_millis(40);
const KEYFRAME_EVERY: u32 = 25;
/// Stands before a picture's number.
const MARK: &[u8] = b"picture:";

#[derive(Clone)]
pub(crate) struct PlayingCamera {
    address: SocketAddr,
    sessions: Arc<Mutex<Vec<Session>>>,
    /// Of one picture on the wire, with its RTP header.
    picture_bytes: u16,
}

/// One client's time with the camera.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    /// The first picture.
    pub(crate) first: u32,
    /// The last one so far.
    pub(crate) last: u32,
    /// When the client hung up or said goodbye.
    pub(crate) closed_at: Option<Instant>,
}

impl PlayingCamera {
    pub(crate) async fn start() -> Self {
        Self::sending(200).await
    }

    /// Whose pictures have so many bytes.
    pub(crate) async fn sending(picture_bytes: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let camera = Self { address, sessions: Arc::default(), picture_bytes };
        let (serving, began) = (camera.clone(), Instant::now());
        tokio::spawn(async move {
            loop {
                let (connection, _) = listener.accept().await.unwrap();
                tokio::spawn(serving.clone().serve(connection, began));
            }
        });
        camera
    }

    pub(crate) fn url(&self) -> String {
        format!("rtsp://{}/live", self.address)
    }

    /// Everybody it ever played to.
    pub(crate) fn sessions(&self) -> Vec<Session> {
        self.sessions.lock().unwrap().clone()
    }

    /// The number of the picture that was sent last.
    pub(crate) fn last_sent(&self) -> u32 {
        self.sessions().iter().map(|session| session.last).max().unwrap()
    }

    async fn serve(self, mut connection: TcpStream, began: Instant) {
        while let Some(request) = request(&mut connection).await {
            if connection.write_all(self.answer(&request).as_bytes()).await.is_err() {
                return;
            }
            if request.starts_with("PLAY") {
                self.play(connection, began).await;
                return;
            }
        }
    }

    fn answer(&self, request: &str) -> String {
        let header = |name: &str| {
            request.lines().find_map(|line| line.strip_prefix(name)).map_or("", |value| value.trim())
        };
        let sdp = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=x\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\n\
                   a=rtpmap:96 H264/90000\r\na=control:track0\r\n\
                   a=fmtp:96 packetization-mode=1;sprop-parameter-sets=Z0IAHpWoKA9k,aM48gA==\r\n";
        let (headers, body) = match request.split(' ').next().unwrap_or_default() {
            "DESCRIBE" => {
                (format!("Content-Base: {}/\r\nContent-Type: application/sdp\r\n", self.url()), sdp)
            }
            "SETUP" => (format!("Session: 7\r\nTransport: {}\r\n", header("Transport:")), ""),
            _ => ("Session: 7\r\n".to_owned(), ""),
        };
        let (sequence, length) = (header("CSeq:"), body.len());
        format!("RTSP/1.0 200 OK\r\nCSeq: {sequence}\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
    }

    /// Sends pictures until the client asks for anything, which is to stop, or hangs up.
    async fn play(self, connection: TcpStream, began: Instant) {
        let (mut read, mut write) = connection.into_split();
        // Numbers go on from client to client: the picture of one moment has one number.
        let mut number = u32::try_from(began.elapsed().as_millis() / PICTURE_EVERY.as_millis()).unwrap();
        let mut number_of_packet = 0_u16;
        let place = {
            let mut sessions = self.sessions.lock().unwrap();
            sessions.push(Session { first: number, last: number, closed_at: None });
            sessions.len() - 1
        };
        let mut ask = [0; 1];
        loop {
            tokio::select! {
                _ = read.read(&mut ask) => break,
                () = tokio::time::sleep_until(began + PICTURE_EVERY * number) => {
                    if write.write_all(&packet(number, number_of_packet, self.picture_bytes)).await.is_err() {
                        break;
                    }
                    self.sessions.lock().unwrap()[place].last = number;
                    number += 1;
                    number_of_packet = number_of_packet.wrapping_add(1);
                }
            }
        }
        self.sessions.lock().unwrap()[place].closed_at = Some(Instant::now());
    }
}

async fn request(connection: &mut TcpStream) -> Option<String> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if connection.read_buf(&mut request).await.ok()? == 0 {
            return None;
        }
    }
    String::from_utf8(request).ok()
}

/// One picture as one NAL unit in one RTP packet (RFC 6184, section 5.6), interleaved (RFC 2326, section 10.12).
fn packet(number: u32, number_of_packet: u16, bytes: u16) -> Vec<u8> {
    let nal = if number.is_multiple_of(KEYFRAME_EVERY) { 0x65 } else { 0x41 };
    let mut rtp = vec![0x80, 0x80 | 96];
    rtp.extend(number_of_packet.to_be_bytes());
    rtp.extend((number * 3_600).to_be_bytes());
    rtp.extend([0, 0, 0, 1, nal, 0x88, 0x84]);
    rtp.extend_from_slice(MARK);
    rtp.extend(format!("{number:08}").bytes());
    rtp.resize(bytes.into(), b'.');
    let mut packet = vec![b'$', 0];
    packet.extend(u16::try_from(rtp.len()).unwrap().to_be_bytes());
    packet.extend(rtp);
    packet
}

/// The numbers of the pictures that a file holds, in its order.
pub(crate) fn pictures_in(file: &[u8]) -> Vec<u32> {
    let marks = file.windows(MARK.len()).enumerate().filter(|(_, window)| *window == MARK);
    let number = |(at, _)| -> Option<u32> {
        let begin: usize = at + MARK.len();
        std::str::from_utf8(file.get(begin..begin + 8)?).ok()?.parse().ok()
    };
    marks.filter_map(number).collect()
}
