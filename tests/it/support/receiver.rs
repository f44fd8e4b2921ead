//! A receiver on loopback, in this process but on threads of its own, that records what it gets.
//!
//! The path says what it answers: `/ok/…`, `/status/CODE`, `/slow/MS`, `/hang`, `/flaky` (every
//! third is a 500), `/recovers/N` (200 after N times 500), `/endless` (200, and a body without
//! end), `/redirect`, `/mirror` (500, with the request's body, and once more in a header).

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use actix_web::http::StatusCode;
use actix_web::http::header::HeaderValue;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};

#[derive(Debug, Clone)]
pub struct Got {
    pub at: Instant,
    pub path: String,
    pub id: String,
    pub body: String,
    pub headers: Vec<(String, String)>,
}

impl Got {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(one, _)| one == name)
            .map(|(_, value)| value.as_str())
    }
}

#[derive(Debug, Default)]
struct Record {
    got: Mutex<Vec<Got>>,
    count: AtomicU64,
    /// By path: requests that are being answered, and the most of them at once.
    at_once: Mutex<HashMap<String, (usize, usize)>>,
}

pub struct Receiver {
    address: SocketAddr,
    record: Arc<Record>,
}

impl Receiver {
    pub fn start() -> Self {
        let record = Arc::new(Record::default());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let data = web::Data::from(Arc::clone(&record));
        std::thread::spawn(move || {
            actix::System::new().block_on(async move {
                let app = move || {
                    App::new()
                        .app_data(data.clone())
                        .default_service(web::to(receive))
                };
                HttpServer::new(app)
                    .workers(1)
                    .disable_signals()
                    .listen(listener)
                    .unwrap()
                    .run()
                    .await
            })
        });
        Self { address, record }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn got(&self) -> MutexGuard<'_, Vec<Got>> {
        self.record.got.lock().unwrap()
    }

    /// The most requests that any path had at once.
    pub fn most_at_once(&self) -> usize {
        self.record
            .at_once
            .lock()
            .unwrap()
            .values()
            .map(|(_, most)| *most)
            .max()
            .unwrap_or(0)
    }

    /// What of a text a header can carry.
    pub fn as_header(text: &str) -> String {
        text.chars()
            .filter(|c| *c >= ' ' && *c != '\u{7f}')
            .collect()
    }

    pub fn at(&self, path: &str) -> Vec<Got> {
        self.got()
            .iter()
            .filter(|one| one.path == path)
            .cloned()
            .collect()
    }
}

/// Counts a request for as long as it is being answered.
struct AtOnce(web::Data<Record>, String);

impl AtOnce {
    fn new(record: &web::Data<Record>, path: &str) -> Self {
        let mut at_once = record.at_once.lock().unwrap();
        let (now, most) = at_once.entry(path.to_owned()).or_default();
        *now += 1;
        *most = (*most).max(*now);
        Self(record.clone(), path.to_owned())
    }
}

impl Drop for AtOnce {
    fn drop(&mut self) {
        if let Some((now, _)) = self.0.at_once.lock().unwrap().get_mut(&self.1) {
            *now -= 1;
        }
    }
}

async fn receive(
    record: web::Data<Record>,
    request: HttpRequest,
    body: web::Bytes,
) -> HttpResponse {
    let headers = request.headers().iter();
    let headers: Vec<_> = headers
        .map(|(name, value)| {
            (
                name.to_string(),
                value.to_str().unwrap_or_default().to_owned(),
            )
        })
        .collect();
    let path = request.path().to_owned();
    let id = request
        .headers()
        .get("webhook-id")
        .and_then(|id| id.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    let body = String::from_utf8_lossy(&body).into_owned();
    let mirrored = body.clone();
    let before = record
        .got
        .lock()
        .unwrap()
        .iter()
        .filter(|one| one.path == path)
        .count();
    record.got.lock().unwrap().push(Got {
        at: Instant::now(),
        path: path.clone(),
        id,
        body,
        headers,
    });
    let _at_once = AtOnce::new(&record, &path);
    let count = record.count.fetch_add(1, Ordering::Relaxed);
    let number = path
        .rsplit('/')
        .next()
        .and_then(|last| last.parse::<u16>().ok())
        .unwrap_or(200);
    match path.split('/').nth(1).unwrap_or_default() {
        "status" => HttpResponse::build(StatusCode::from_u16(number).unwrap()).body("as you wish"),
        "slow" => {
            tokio::time::sleep(Duration::from_millis(number.into())).await;
            HttpResponse::Ok().finish()
        }
        "hang" => std::future::pending().await,
        "flaky" if count.is_multiple_of(3) => HttpResponse::InternalServerError().finish(),
        "recovers" if before < usize::from(number) => HttpResponse::InternalServerError().finish(),
        "endless" => HttpResponse::Ok().body(Endless),
        "mirror" => {
            let header =
                HeaderValue::from_bytes(Receiver::as_header(&mirrored).as_bytes()).unwrap();
            HttpResponse::InternalServerError()
                .insert_header(("x-mirror", header))
                .body(mirrored)
        }
        "redirect" => HttpResponse::Found()
            .insert_header(("location", "/ok/redirected"))
            .finish(),
        _ => HttpResponse::Ok().finish(),
    }
}

struct Endless;

impl actix_web::body::MessageBody for Endless {
    type Error = std::convert::Infallible;
    fn size(&self) -> actix_web::body::BodySize {
        actix_web::body::BodySize::Stream
    }
    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<web::Bytes, Self::Error>>> {
        std::task::Poll::Ready(Some(Ok(web::Bytes::from_static(&[b'x'; 4096]))))
    }
}
