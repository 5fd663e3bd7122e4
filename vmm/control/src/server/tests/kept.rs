//! What is kept of machines that have left, and whoever wants it gone.

use super::exchange::Fixture;
use crate::api::{ErrorCode, MachineName, MachineSpec};

#[test]
fn what_is_forgotten_is_gone_or_it_is_said_that_it_is_not() {
    let here = Fixture::new();
    let registry = here.state.registry();
    let name: MachineName = "web".parse().unwrap();
    registry.create(&name, MachineSpec::default()).unwrap();
    let id = registry.find(&name).unwrap().id();
    let images = &registry.shared().kept;
    let nothing = || {
        let error = registry.forget(&name).unwrap_err();
        assert_eq!(error.code, ErrorCode::NotFound);
        assert_eq!(error.message, "nothing is kept of the memory of machine web");
    };
    nothing();

    let writing = images.place(id, 1 << 20, None).unwrap();
    registry.forget(&name).unwrap();
    assert!(writing.finish().is_err());
    nothing();

    images.place(id, 1 << 20, None).unwrap().finish().unwrap();
    registry.forget(&name).unwrap();
    nothing();

    // A folder is not removed as a file is.
    let path = here.state.config().storage.state.join("kept").join(crate::random::hex(&id));
    std::fs::create_dir(path).unwrap();
    let error = registry.forget(&name).unwrap_err();
    assert_eq!(error.code, ErrorCode::Internal);
    assert!(error.message.contains("web cannot be removed: "), "{error}");
}
