//! What holds of sets of features, whatever is in them.

use proptest::prelude::*;

use super::*;

fn any_features() -> impl Strategy<Value = Features> {
    prop::array::uniform19(any::<u32>()).prop_map(Features)
}

proptest! {
    #[test]
    fn what_both_have_and_what_each_has_alone_is_all_there_is(a in any_features(), b in any_features()) {
        let both = a.intersection(&b);
        prop_assert_eq!(both, b.intersection(&a));
        prop_assert_eq!(both.union(&a.without(&b)), a);
        prop_assert_eq!(both.union(&b.without(&a)), b);
        prop_assert!(both.intersection(&a.without(&b)).is_empty());
        prop_assert!(a.without(&b).intersection(&b.without(&a)).is_empty());
        prop_assert_eq!(both.intersection(&a), both);
        prop_assert_eq!(a.union(&b).len() + both.len(), a.len() + b.len());
    }

    #[test]
    fn a_set_is_the_features_in_it(a in any_features()) {
        prop_assert_eq!(a.iter().collect::<Features>(), a);
        prop_assert!(a.iter().all(|feature| a.contains(feature)));
        prop_assert_eq!(a.is_empty(), a.iter().next().is_none());
    }

    #[test]
    fn a_set_comes_back_from_its_names_and_from_its_bytes(a in any_features()) {
        let bytes = postcard::to_stdvec(&a).unwrap();
        prop_assert_eq!(postcard::from_bytes::<Features>(&bytes).unwrap(), a);
        let names: Vec<String> = a.iter().map(|feature| feature.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        prop_assert_eq!(Features::named(&names).unwrap(), a);
    }
}

#[test]
fn a_bit_without_a_name_is_named_by_its_place() {
    let features = Features::from_registers(|leaf, subleaf, register| {
        if (leaf, subleaf, register) == (7, 1, Register::Eax) { 1 << 22 | 1 << 4 } else { 0 }
    });
    assert_eq!(features.to_string(), "avx_vnni, 0x7.1.eax[22]");
    assert_eq!(Features::named(&["0x7.1.eax[22]", "avx_vnni"]), Ok(features));
    // One feature has one name.
    let place = "0x7.1.eax[4]";
    assert_eq!(Features::named(&[place]), Err(FeatureError::Name(place.to_owned())));
}

#[test]
fn what_is_not_known_is_refused_and_not_taken_for_absent() {
    let newer = postcard::to_stdvec(&[(9_u32, 0_u32, Register::Eax, 1_u32)].to_vec()).unwrap();
    assert!(postcard::from_bytes::<Features>(&newer).is_err());
    assert_eq!(Features::named(&["sse9"]), Err(FeatureError::Name("sse9".to_owned())));
}

#[test]
fn bits_that_amd_repeats_count_once() {
    let edx = |leaf, _, register| {
        let is_edx = register == Register::Edx && matches!(leaf, 1 | 0x8000_0001);
        if is_edx { 0x23d3_fbff } else { 0 }
    };
    let features = Features::from_registers(edx);
    assert_eq!(features.register(0x8000_0001, 0, Register::Edx), 0x23d3_fbff & !REPEATED);
    assert_eq!(features.register(1, 0, Register::Edx), 0x23d3_fbff);
}
