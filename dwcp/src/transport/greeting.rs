//! [`Greeting`]: what a new connection wants, told from its first bytes, which stay where they are. See
//! `SPEC.md`, 8.5.

use rustls::server::Acceptor;

/// The longest ClientHello that is looked at. Ours have less than 300 bytes.
pub const PEEK_BYTES: usize = 8 << 10;

/// What the other end asks for. Nothing of it is proven yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// The protocols that it speaks, its favourite first.
    pub protocols: Vec<Vec<u8>>,
    /// The name that it calls.
    pub server_name: Option<String>,
}

/// Bytes that no end of a stream begins with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GreetingError {
    /// More than [`PEEK_BYTES`], and no end
    #[error("its greeting is longer than {PEEK_BYTES} bytes")]
    TooLong,
    /// Not TLS
    #[error("it does not speak TLS: {0}")]
    NotTls(String),
}

impl Greeting {
    /// Reads the first bytes of a connection; `None` if there have to be more. No key is needed for it, and none is
    /// touched.
    ///
    /// # Errors
    /// When the bytes, and whatever may follow them, are no greeting.
    pub fn peek(bytes: &[u8]) -> Result<Option<Self>, GreetingError> {
        let mut acceptor = Acceptor::default();
        let mut rest = bytes.get(..PEEK_BYTES).unwrap_or(bytes);
        while !rest.is_empty() {
            let read = acceptor.read_tls(&mut rest);
            if read.map_err(|error| GreetingError::NotTls(error.to_string()))? == 0 {
                break;
            }
            let accepted =
                acceptor.accept().map_err(|(error, _)| GreetingError::NotTls(error.to_string()))?;
            if let Some(accepted) = accepted {
                let hello = accepted.client_hello();
                let protocols = hello.alpn().map(|all| all.map(<[u8]>::to_vec).collect());
                return Ok(Some(Self {
                    protocols: protocols.unwrap_or_default(),
                    server_name: hello.server_name().map(str::to_owned),
                }));
            }
        }
        if bytes.len() >= PEEK_BYTES { Err(GreetingError::TooLong) } else { Ok(None) }
    }
}
